"""The time at which the outcome of a trajectory is settled: when a class stops changing, when a probe can read it.

Two questions. Does the model's own guess still change: the class of D(x_t, t) after the decision time is the class of
the end. And is the class already in the state: how well a linear probe names it from x_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LinearProbe", "decided_share", "decision_times", "probe_predictions", "settled_since"]


def settled_since(symbols: Tensor) -> Tensor:
    """Return the first index from which on a symbol equals its last one.

    Args:
        symbols: integers ``(K, *rows)``, along a trajectory.

    Returns:
        int64 ``(*rows,)`` in [0, K − 1].

    Raises:
        ValueError: if there is no state.
    """
    if len(symbols) < 1:
        raise ValueError("0 states: a decision needs a trajectory; sample with save_steps=True")
    same = (symbols == symbols[-1]).flip(0).long().cumprod(0)
    return len(symbols) - same.sum(0)


def decision_times(ts: Tensor, symbols: Tensor) -> Tensor:
    """Return the time of the first state from which on each symbol stays what it is at the end.

    Args:
        ts: times of the states, ``(K,)``, in the order in which they are passed.
        symbols: integers ``(K, *rows)``.

    Returns:
        ``(*rows,)``, dtype of ``ts``; the first time where nothing ever changes.
    """
    return ts.reshape(len(symbols))[settled_since(symbols)]


def decided_share(symbols: Tensor) -> Tensor:
    """Return, for each state, which symbols have settled by then: ``(K, *rows)`` bool, its mean the share decided."""
    steps = torch.arange(len(symbols), device=symbols.device)
    return steps.reshape(-1, *[1] * (symbols.ndim - 1)) >= settled_since(symbols)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of states: ridge regression on one-hot classes, exact and without a step size.

    Attributes:
        weight: ``(d, C)``, float64.
        offset: ``(C,)``.
        mean: of the states it was fitted to, ``(d,)``.
    """

    weight: Tensor
    offset: Tensor
    mean: Tensor

    @classmethod
    def fit(cls, states: Tensor, labels: Tensor, classes: int, penalty: float = 1e-2) -> LinearProbe:
        """Fit by min ‖X W − Y‖² + λ ‖W‖² with centred X and Y and λ = ``penalty`` × mean squared singular value.

        Solved in the dual where there are fewer states than coordinates.

        Args:
            states: ``(N, *event)``.
            labels: int64 ``(N,)`` in [0, classes).
            classes: C.
            penalty: relative to the spectrum of the states, so that their scale, which changes with t, does not matter.

        Raises:
            ValueError: if there is no state, or ``penalty`` is not positive.
        """
        if len(states) < 1 or not penalty > 0:
            raise ValueError(f"{len(states)} states, penalty = {penalty}: a probe needs some states and a penalty > 0")
        rows = states.double().flatten(1)
        mean = rows.mean(0)
        x, y = rows - mean, F.one_hot(labels, classes).double()
        offset = y.mean(0)
        count, size = x.shape
        ridge = penalty * x.square().sum() / min(count, size)
        floor = torch.finfo(torch.float64).tiny
        if count < size:
            gram = x @ x.T + (ridge + floor) * torch.eye(count, dtype=x.dtype, device=x.device)
            weight = x.T @ torch.linalg.solve(gram, y - offset)
        else:
            gram = x.T @ x + (ridge + floor) * torch.eye(size, dtype=x.dtype, device=x.device)
            weight = torch.linalg.solve(gram, x.T @ (y - offset))
        return cls(weight, offset, mean)

    def __call__(self, states: Tensor) -> Tensor:
        """Name the class of states ``(N, *event)``; int64 ``(N,)``."""
        scores: Tensor = (states.double().flatten(1) - self.mean) @ self.weight + self.offset
        return scores.argmax(-1)


def probe_predictions(states: Tensor, labels: Tensor, classes: int, folds: int = 5, penalty: float = 1e-2) -> Tensor:
    """Name the class of every state by a probe of its own time, fitted to the other folds.

    Row i belongs to fold i mod ``folds``, so that no probe has seen the trajectory that it judges.

    Args:
        states: along trajectories, ``(K, N, *event)``.
        labels: class of each trajectory, int64 ``(N,)``.
        classes: C.
        folds: of the cross-validation.
        penalty: see `LinearProbe.fit`.

    Returns:
        int64 ``(K, N)``.

    Raises:
        ValueError: if there are fewer trajectories than folds, or fewer than two folds.
    """
    count = states.shape[1]
    if not 2 <= folds <= count:
        raise ValueError(f"folds = {folds} of {count} trajectories; give at least 2 folds and a trajectory for each")
    fold = torch.arange(count, device=states.device) % folds
    found = torch.empty(states.shape[:2], dtype=torch.int64, device=states.device)
    for index, state in enumerate(states):
        for held in range(folds):
            inside = fold == held
            found[index, inside] = LinearProbe.fit(state[~inside], labels[~inside], classes, penalty)(state[inside])
    return found
