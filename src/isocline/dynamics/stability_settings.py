"""What the stiffness and stability report of a trained field measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from isocline.dynamics.solver_cost import SolverSweep
from isocline.metrics.quality_over_nfe import QualitySettings
from isocline.solvers.explicit import Heun
from isocline.solvers.stepper import AbstractStepper

__all__ = ["StabilitySettings"]

_KEY = "evaluation.stability"


@dataclass(frozen=True)
class StabilitySettings:
    """Sizes of the report.

    Attributes:
        methods: fixed-step methods by name: their regions of stability, and the steps that stability alone demands.
        sweep: adaptive explicit and implicit solvers, whose costs are compared at equal error.
        quality: solvers of images side by side, for models of images; None leaves them out.
        local: those methods whose local error is measured along the path (one-step methods).
        shares: of the span at which the Jacobian is looked at, rising from 0, below 1: at the very end of a flow to
            data it diverges where the noise vanishes. In depth it is looked at in every layer instead.
        samples: states that are followed.
        krylov: products with each Jacobian for its leading eigenvalues.
        norms: products with each Jacobian for its norms.
        accuracy: relative tolerance of the path, and of the end from which errors are measured.
        precision: fixed-step method whose solves in float64, float32 and bfloat16 are compared; in depth it is the
            network's own step.
        substeps: its steps between two of the shares.
        resolution: points along each side of the plane on which regions are drawn.

    Raises:
        ValueError: if a number is out of range, or a name in ``local`` is no method.
    """

    methods: Mapping[str, AbstractStepper]
    sweep: SolverSweep
    quality: QualitySettings | None = None
    local: Sequence[str] = ("heun",)
    shares: Sequence[float] = (0.0, 0.3, 0.6, 0.8, 0.95)
    samples: int = 4
    krylov: int = 20
    norms: int = 10
    accuracy: float = 1e-4
    precision: AbstractStepper = field(default_factory=Heun)
    substeps: int = 2
    resolution: int = 81

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("krylov", 2), ("norms", 2), ("substeps", 1), ("resolution", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{_KEY}.{name}={getattr(self, name)}: must be at least {least}")
        shares = list(self.shares)
        rising = all(a < b for a, b in pairwise(shares))
        if len(shares) < 2 or shares[0] != 0.0 or shares[-1] >= 1.0 or not rising:
            raise ValueError(f"{_KEY}.shares={shares}: at least two, rising from 0 and below 1")
        if not 0 < self.accuracy < 1:
            raise ValueError(f"{_KEY}.accuracy={self.accuracy}: a relative tolerance, such as 1e-4")
        if strange := [name for name in self.local if name not in self.methods]:
            raise ValueError(f"{_KEY}.local: no method {strange[0]!r}; there are {', '.join(self.methods)}")
