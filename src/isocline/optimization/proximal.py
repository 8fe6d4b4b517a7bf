"""The inner solve of a proximal step: Anderson acceleration of the stage equation, by gradients alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.stage_solvers import AbstractStageSolver, StageSolution, StageSystem, check_iteration

__all__ = ["AndersonStages"]


@dataclass(frozen=True)
class AndersonStages(AbstractStageSolver):
    """Anderson acceleration of ``z ← h A f(base + z)``: no Jacobian, and no bound on ``h L``.

    With ``r_k`` the residual at ``z_k`` and differences over the last steps as columns of ``ΔZ`` and ``ΔR``,
    ``z_{k+1} = z_k + m r_k - (ΔZ + m ΔR) argmin_c |r_k - ΔR c|``, from z = 0. On linear fields this is GMRES, which is
    done after as many iterations as the field has different eigenvalues, however stiff. One evaluation an iteration.

    Attributes:
        iterations: the most evaluations of each stage.
        memory: how many differences are kept.
        tol: a sample is done once its residual is at most ``tol`` times the displacement's image, in Euclidean norms;
            one that is not in the end has failed, and keeps the iterate of least residual.
        mixing: m in (0, 1]; below one for strongly non-linear fields, whose first trial then is not far off.

    Raises:
        ValueError: if a value is out of range.

    Source: Walker, Ni, Anderson acceleration for fixed-point iterations (2011).
    """

    iterations: int = 8
    memory: int = 5
    tol: float = 1e-2
    mixing: float = 0.5

    def __post_init__(self) -> None:
        check_iteration(self.iterations, self.tol)
        if self.memory < 1 or not 0 < self.mixing <= 1:
            raise ValueError(f"memory={self.memory}, mixing={self.mixing}; give memory >= 1 and 0 < mixing <= 1")

    def least_nfe(self, stages: int) -> int:
        """One evaluation of each stage."""
        return stages

    def solve(self, system: StageSystem) -> StageSolution:
        """Iterate; see the base class. Not differentiated: optimisers need no derivatives of their steps."""
        base, stages = system.base, len(system.times)
        size = base.numel() // len(base)

        def image(z: Tensor) -> Tensor:
            return _flat(system.image(_parts(z, size, base)))

        with torch.no_grad():
            z, count, failed = self._iterate(_flat(system.image(None)), image)
        return StageSolution(_parts(z, size, base), count * stages, failed)

    def _iterate(self, first: Tensor, image: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        z, found = torch.zeros_like(first), first
        residual = found
        best, least = z, _norm(residual)
        done = least <= 0
        count = torch.ones(len(z), dtype=torch.int64, device=z.device)
        moves: list[Tensor] = []
        changes: list[Tensor] = []
        for _ in range(self.iterations - 1):
            if bool(done.all()):
                break
            move = self.mixing * residual
            if moves:
                columns, turns = torch.stack(changes, 2), torch.stack(moves, 2)
                weights = _least_squares(columns, residual[..., None])
                move = move - ((turns + self.mixing * columns) @ weights)[..., 0]
            trial = torch.where(done[:, None], z, z + move)
            count = count + ~done
            found = image(trial)
            new = found - trial
            moves, changes = [*moves, trial - z][-self.memory :], [*changes, new - residual][-self.memory :]
            z, residual = trial, new
            size = _norm(residual)
            better = ~done & (size < least)
            best, least = torch.where(better[:, None], z, best), torch.where(better, size, least)
            done = done | (size <= self.tol * _norm(found))
        return best, count, ~done


def _least_squares(columns: Tensor, right: Tensor) -> Tensor:
    # Not `torch.linalg.lstsq`: its default driver on a CPU pivots on memory that nobody set, so that equal systems
    # differ in their last bits, and the one on a GPU needs independent columns.
    basis, upper = torch.linalg.qr(columns)
    return torch.linalg.pinv(upper) @ (basis.mT @ right)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def _parts(z: Tensor, size: int, base: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.reshape(base.shape) for part in torch.split(z, size, 1))  # type: ignore[no-untyped-call]


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.double(), dim=1)
