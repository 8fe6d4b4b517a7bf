"""When the tokens of a text are committed to, along a trajectory from noise to text, and in which order.

It reads tokens alone: the states that any text sampler saves (``save_steps=True``), or the arg-max of a model's law at
those states, which commits earlier than the state shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.decision_time import decided_share, settled_since

__all__ = ["TokenCommitment", "average_ranks", "rank_correlation", "token_commitment"]


@dataclass(frozen=True)
class TokenCommitment:
    """When tokens took their final value.

    Attributes:
        ts: times of the states, ``(K, B)``, float64, from noise to text.
        times: of each token, ``(B, L)``: of the first state from which on it is what it is at the end.
        share: of each sequence's tokens that are final by then, ``(K, B)``, rising to 1.
        left_to_right: rank correlation of a token's place with how early it commits, ``(B,)``; 1 if each position
            commits after those left of it, 0 where all commit at once.
    """

    ts: Tensor
    times: Tensor
    share: Tensor
    left_to_right: Tensor

    def earliness_by(self, values: Tensor) -> Tensor:
        """Return the rank correlation of a token's value with how early it commits, in each sequence.

        Args:
            values: of each token, ``(B, L)``; its frequency in the language, say.

        Returns:
            ``(B,)``, float64, in [−1, 1]: positive where large values come first; 0 where either is constant.
        """
        return rank_correlation(values.double(), _earliness(self.ts, self.times))


def token_commitment(ts: Tensor, tokens: Tensor) -> TokenCommitment:
    """Read the commitment of tokens off a trajectory.

    Args:
        ts: times of the states, ``(K,)`` or ``(K, B)``, in the order in which they are passed.
        tokens: int64 ``(K, B, L)``; undecided positions hold a mask, or any symbol.

    Raises:
        ValueError: if there are fewer than two states.
    """
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} state: commitment needs a trajectory; sample with save_steps=True")
    clock = ts.double().reshape(len(tokens), -1).expand(-1, tokens.shape[1]).to(tokens.device)
    times = clock.T.gather(1, settled_since(tokens))
    places = torch.arange(tokens.shape[-1], device=tokens.device).double().expand_as(times)
    return TokenCommitment(
        ts=clock,
        times=times,
        share=decided_share(tokens).double().mean(-1),
        left_to_right=rank_correlation(-places, _earliness(clock, times)),
    )


def _earliness(ts: Tensor, times: Tensor) -> Tensor:
    """Larger for tokens that commit sooner, whichever way time runs."""
    return times if float(ts[0, 0]) > float(ts[-1, 0]) else -times


def average_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value within its row, ties sharing their mean rank; ``(*rows, n)`` float64."""
    below = (values.unsqueeze(-2) < values.unsqueeze(-1)).double().sum(-1)
    equal = (values.unsqueeze(-2) == values.unsqueeze(-1)).double().sum(-1)
    return below + (equal - 1) / 2


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation within rows: Pearson's of average ranks.

    Args:
        a: ``(*rows, n)``.
        b: likewise.

    Returns:
        ``(*rows,)``, float64; 0 where either is constant.

    Source: *The proof and measurement of association between two things*, Spearman, 1904.
    """
    x, y = (ranks - ranks.mean(-1, keepdim=True) for ranks in (average_ranks(a), average_ranks(b)))
    scale = x.norm(dim=-1) * y.norm(dim=-1)
    return torch.where(scale > 0, (x * y).sum(-1) / scale.where(scale > 0, 1.0), 0.0)
