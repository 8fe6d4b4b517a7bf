"""Work of the multi-start search for fixed points of a trained image denoiser, and what its attractors are.

Run: ``python bench/fixed_points.py [--model flow] [--root data/models] [--starts 64] [--shares 0.7 0.8 0.9]``. At each
share of noise σ/(α + σ) the map y ↦ D(α y, t) is searched from the model's own samples, unconditionally, by plain
iteration, by Anderson acceleration, by Newton–Krylov and by Anderson followed by it. Work is counted in evaluations of
the network for one state; a product with the Jacobian counts as three of them, about what forward mode costs. Then the
map is iterated to rest, and the attractors' distances to the training set are held against those of unseen images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from torch import Tensor

from isocline.app.artifacts import load_tensors
from isocline.app.trained_field import trained_field
from isocline.datasets.quantisation import to_float
from isocline.dynamics.anderson import Anderson
from isocline.dynamics.attractors import Attractors, LimitKind, distinct_attractors, map_limits
from isocline.dynamics.basins import basin_shares
from isocline.dynamics.distinct import group_points, spread
from isocline.dynamics.fixed_points import find_fixed_points
from isocline.dynamics.memorisation import attractor_memorisation
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.readings.denoiser_map import denoiser_map, typical_states
from isocline.dynamics.root_finder import AbstractRootFinder, Polished, RootStatus
from isocline.dynamics.system import IteratedMap
from isocline.randomness import generator

TOLERANCE = 1e-3
SEPARATION = 0.05
PRODUCT = 3
FINDERS: dict[str, AbstractRootFinder] = {
    "plain iteration": Anderson(memory=0, tolerance=TOLERANCE, iterations=150),
    "Anderson, 3": Anderson(memory=3, tolerance=TOLERANCE, iterations=150),
    "Anderson, 8": Anderson(memory=8, tolerance=TOLERANCE, iterations=150),
    "Newton–Krylov": NewtonKrylov(tolerance=TOLERANCE, iterations=25, krylov=15),
    "Anderson, then Newton–Krylov": Polished(
        Anderson(memory=3, tolerance=10 * TOLERANCE, iterations=50),
        NewtonKrylov(tolerance=TOLERANCE, iterations=15, krylov=15),
    ),
}


def search(system: IteratedMap, starts: Tensor, name: str) -> None:
    began = time.perf_counter()
    roots = FINDERS[name].find(system, starts)
    seconds = time.perf_counter() - began
    work = int(roots.evaluations.sum()) + PRODUCT * int(roots.products.sum())
    good = roots.converged
    count = int(good.sum())
    distinct = 0
    if count:
        radius = SEPARATION * spread(starts)
        distinct = len(group_points(roots.points[good], roots.residuals[good], radius).representatives)
    print(
        f"| {name} | {count} | {roots.count(RootStatus.STALLED)} | {distinct} | {work / len(starts):.0f} | "
        f"{work / count if count else float('nan'):.0f} | {seconds:.0f} |",
        flush=True,
    )


def kinds(system: IteratedMap, attractors: Attractors, seed: int) -> str:
    """Spectra at the most frequent attractors."""
    found = find_fixed_points(
        system, attractors.points[:4], generator(seed, "arnoldi"), finder=Anderson(tolerance=TOLERANCE), steps=12
    )
    return ", ".join(
        f"{kind.value} ({leading:+.3f})"
        for kind, leading in zip(found.kinds, found.classification.leading.tolist(), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--root", type=Path, default=Path("data/models"))
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--attractors-only", action="store_true")
    options = parser.parse_args()
    field = trained_field(options.model, options.root)
    starts = typical_states(field, options.starts, 8, 0)
    images = options.root.parent / "images"
    train, held_out = (to_float(load_tensors(images / f"{split}.safetensors")["images"]) for split in ("train", "test"))
    assert field.denoiser is not None
    for share in options.shares:
        system = denoiser_map(field.denoiser, share, None)
        print(f"\n## {options.model}, share of noise {share:g}, {options.starts} starts\n", flush=True)
        if not options.attractors_only:
            print("| method | converged | stalled | distinct | work per start | work per converged | seconds |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for name in FINDERS:
                search(system, starts, name)
        limits = map_limits(system, starts, options.iterations, tolerance=2e-3)
        attractors = distinct_attractors(limits, SEPARATION * spread(starts))
        shares = basin_shares(attractors.members, len(attractors.points))
        counts = {kind.name.lower(): limits.count(kind) for kind in LimitKind}
        print(f"\niterated: {counts}, {len(attractors.points)} distinct, mean {limits.evaluations.double().mean():.0f}")
        if not len(attractors.points):
            continue
        basins = ", ".join(f"{b.share:.2f} [{b.low:.2f}, {b.high:.2f}]" for b in shares.basins[:4])
        copies = attractor_memorisation(attractors.points, train, held_out)
        print(f"basins: {basins}; kinds: {kinds(system, attractors, 0)}")
        print(
            f"nearest training image: median ratio to unseen {copies.ratio:.2f}, share with p <= {copies.level:g}: "
            f"{copies.share:.2f} [{copies.low:.2f}, {copies.high:.2f}], least p {float(copies.p_values.min()):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
