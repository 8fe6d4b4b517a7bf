"""Time, memory and error of gradients, beside torchdiffeq and, where they are installed, torchode and diffrax.

Run: ``OMP_NUM_THREADS=1 python bench/gradients.py [--repeats 15]``. Cases are interleaved in one process on one thread;
figures are medians of processor time. The unit of time is what the forward solve's evaluations would cost as bare
calls of the field, each with its vector-Jacobian product in the state and all parameters: a method that evaluates every
slope again on the way back cannot be below ``1 + f / (f + vjp)``, which is printed as its bound.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import torch
import torchdiffeq
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradient_peers import JaxCase, torchode_final
from isocline.solvers import ConstantSteps, Dopri5, Dopri8, ODEProblem, PIDController, solve
from isocline.solvers.gradient import (
    AbstractGradient,
    AdjointWarning,
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)

RTOL = 1e-5
SIZES = ((512, 256), (64, 1024))
OURS: dict[str, AbstractGradient] = {
    "Backpropagation": Backpropagation(),
    "DiscreteAdjoint": DiscreteAdjoint(),
    "CheckpointedAdjoint": CheckpointedAdjoint(),
    "InterpolatedAdjoint": InterpolatedAdjoint(),
    "BacksolveAdjoint": BacksolveAdjoint(),
    "BacksolveAdjoint(seminorm=False)": BacksolveAdjoint(seminorm=False),
}
MU, END, START = 8.0, 10.0, (2.0, 0.0)
PATIENCE = 5

Final = Callable[..., Tensor]
"""``final(field, y0, rtol, end=1.0)``: the state at the end; rtol zero stands for ten equal steps."""


class Field(torch.nn.Module):
    """A network of state and time, which counts the states that it is asked about."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (3, width, width, 2)
        layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        self.net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
        with torch.no_grad():
            for layer in layers:
                layer.weight.mul_(gain)
        self.states = 0

    def forward(self, t: Tensor, y: Tensor, cond: None = None) -> Tensor:
        self.states += len(y)
        return self.net(torch.cat([y, t.to(y.dtype).reshape(-1, 1).expand(len(y), 1)], 1))


class VanDerPol(torch.nn.Module):
    """``x'' = μ (1 - x²) x' - x``."""

    def forward(self, t: Tensor, y: Tensor, cond: None = None) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, MU * (1 - x * x) * v - x], -1)


def ours(gradient: AbstractGradient, joint: bool = True) -> Final:
    def final(field: torch.nn.Module, y0: Tensor, rtol: float, end: float = 1.0) -> Tensor:
        controller = PIDController(rtol, rtol, joint=joint) if rtol else ConstantSteps(10)
        return solve(ODEProblem(field, y0, 0.0, end), Dopri5(), controller, gradient=gradient).final

    return final


def torchdiffeq_final(function: Callable[..., Tensor]) -> Final:
    def final(field: torch.nn.Module, y0: Tensor, rtol: float, end: float = 1.0) -> Tensor:
        span = torch.tensor([0.0, end], dtype=torch.float64)
        return function(field, y0, span, rtol=rtol, atol=rtol, method="dopri5")[-1]

    return final


def finals() -> dict[str, Final]:
    found = {name: ours(gradient) for name, gradient in OURS.items()}
    found["DiscreteAdjoint, samples apart"] = ours(DiscreteAdjoint(), joint=False)
    found["torchdiffeq odeint"] = torchdiffeq_final(torchdiffeq.odeint)
    found["torchdiffeq odeint_adjoint"] = torchdiffeq_final(torchdiffeq.odeint_adjoint)
    for kind in ("AutoDiffAdjoint", "JointBacksolveAdjoint"):
        final = torchode_final(kind)
        if final is not None:
            found[f"torchode {kind}"] = final
    return found


class Memory(TorchDispatchMode):
    """Bytes that tensors made inside of it hold, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in before:
                storage = leaf.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self._change(storage.nbytes())
                    weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


@dataclass
class Case:
    """One way to a gradient."""

    name: str
    run: Callable[[], object]
    nfe: float
    kept: float
    most: float


def medians(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds per call of every case, calls interleaved."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 2):
        for name, run in cases.items():
            start = time.process_time()
            run()
            if repeat >= 2:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def torch_case(name: str, final: Final, field: Field, y0: Tensor, rtol: float) -> Case:
    inputs = (y0, *field.parameters())

    def run() -> object:
        return torch.autograd.grad(final(field, y0, rtol).square().mean(), inputs)

    field.states = 0
    with Memory() as memory:
        end = final(field, y0, rtol)
        nfe, kept = field.states / len(y0), memory.now
        memory.most = 0
        found = torch.autograd.grad(end.square().mean(), inputs)
    del found
    return Case(name, run, nfe, kept / 1e6, memory.most / 1e6)


def times(width: int, batch: int, rtol: float, gain: float, repeats: int) -> list[str]:
    field = Field(width, gain)
    y0 = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    t, weight = torch.tensor(0.5, dtype=torch.float64), torch.ones_like(y0)
    inputs = (y0, *field.parameters())
    chosen = {name: final for name, final in finals().items() if rtol or name in list(OURS)[:3]}
    cases = [torch_case(name, final, field, y0, rtol) for name, final in chosen.items()]

    def bare() -> object:
        with torch.no_grad():
            return [field(t, y0) for _ in range(10)]

    def pair() -> object:
        return [torch.autograd.grad(field(t, y0), inputs, weight) for _ in range(10)]

    runs = {"bare": bare, "pair": pair} | {case.name: case.run for case in cases}
    jax = [JaxCase(kind, field, y0, rtol) for kind in JaxCase.kinds if rtol]
    for peer in jax:
        runs |= {peer.name: peer.run, f"{peer.name} pair": peer.pair}
    seconds = medians(runs, repeats)
    unit, share = seconds["pair"] / 10, seconds["bare"] / seconds["pair"]
    label = f"{width}, {batch}, {f'{rtol:g}' if rtol else '10 steps'}"
    rows = [
        f"| {label} | {case.name} | {case.nfe:.1f} | {1e3 * seconds[case.name]:.1f} "
        f"| **{seconds[case.name] / case.nfe / unit:.2f}** | {case.kept:.2f} | {case.most:.2f} |"
        for case in cases
    ]
    rows += [
        f"| {label} | {peer.name} | {peer.nfe} | {1e3 * seconds[peer.name]:.1f} "
        f"| **{seconds[peer.name] / peer.nfe / seconds[f'{peer.name} pair']:.2f}** | | |"
        for peer in jax
    ]
    return [*rows, f"| {label} | bound of evaluating every slope twice | | | {1 + share:.2f} | | |"]


def memory(batch: int = 256, width: int = 64) -> list[str]:
    """Megabytes kept after the forward solve, and at most in the backward pass, against the number of steps."""
    field = Field(width, 1.0)
    y0 = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = []
    for name, gradient in OURS.items():
        cells = []
        for steps in (20, 80, 320):
            with Memory() as found:
                solution = solve(ODEProblem(field, y0, 0.0, 1.0), Dopri5(), ConstantSteps(steps), gradient=gradient)
                kept, found.most = found.now, 0
                torch.autograd.grad(solution.final.sum(), (y0, *field.parameters()))
            del solution
            cells.append(f"{kept / 1e6:.2f} / {found.most / 1e6:.2f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def give_up(*_: object) -> None:
    raise TimeoutError(f"more than {PATIENCE} s")


def errors() -> Iterator[str]:
    """dx(T)/dx(0) of van der Pol's oscillator."""
    field, y0 = VanDerPol(), torch.tensor([START], dtype=torch.float64, requires_grad=True)
    exact = solve(ODEProblem(field, y0, 0.0, END), Dopri8(), PIDController(1e-12, 1e-13), gradient=DiscreteAdjoint())
    truth = torch.autograd.grad(exact.final[0, 0], y0)[0][0, 0].item()
    signal.signal(signal.SIGVTALRM, give_up)
    yield f"| exact | {truth:.6f} | {truth:.6f} |"
    for name, final in finals().items():
        cells = []
        for rtol in (1e-3, 1e-6):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", AdjointWarning)
                signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
                try:
                    found = torch.autograd.grad(final(field, y0, rtol, END)[0, 0], y0)[0][0, 0].item()
                    text = f"{found:.6g} ({abs(found / truth - 1):.1e})"
                except (AssertionError, RuntimeError, TimeoutError) as error:
                    text = f"{type(error).__name__}: {str(error)[:40]}"
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            warned = any(issubclass(item.category, AdjointWarning) for item in caught)
            cells.append(text + (", AdjointWarning" if warned else ""))
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}, {repeats} interleaved repeats, medians\n")
    print("Networks of two hidden layers, float32, Dopri5 by one clock; gradients by the start and all parameters.\n")
    print("| width, batch, tolerance | method | forward NFE | ms | time / (NFE × (f + vjp)) | MB kept | MB at most |")
    print("|---|---|---|---|---|---|---|")
    for width, batch in SIZES:
        for rtol, gain in ((0.0, 1.0), (RTOL, 3.0)):
            print("\n".join(times(width, batch, rtol, gain, repeats)), flush=True)
    print("\nMegabytes kept after the forward solve / at most in the backward pass, width 64, batch 256\n")
    print("| method | 20 steps | 80 steps | 320 steps |\n|---|---|---|---|")
    print("\n".join(memory()), flush=True)
    print(f"\nVan der Pol, μ = {MU:g}, from {START} to T = {END:g}, float64: dx(T)/dx(0) (relative error)\n")
    print("| method | rtol 1e-3 | rtol 1e-6 |\n|---|---|---|")
    for row in errors():
        print(row, flush=True)


if __name__ == "__main__":
    main()
