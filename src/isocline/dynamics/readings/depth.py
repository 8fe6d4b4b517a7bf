"""Reading: what each layer of a Transformer of text says and does."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from isocline.dynamics.depth_view import depth_states, early_exits, logit_lens, loss_rises, state_geometry, trunk_of
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, estimate, positive, with_error
from isocline.dynamics.token_reading import token_reading
from isocline.metrics.text_likelihood import spread_rows
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.residual_layers import residual_stacks

__all__ = ["DepthReading"]


@dataclass(frozen=True)
class DepthReading(AbstractReading):
    """The logit lens, the turns and the rank of the residual stream, and what is lost without each block.

    Attributes:
        samples: sequences of the test split.
        prunable: rise of the loss, nats per token, below which a block counts as one to be pruned.
    """

    samples: int = 64
    prunable: float = 0.02

    def __post_init__(self) -> None:
        positive(self, "samples")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a Transformer of text that has one stream."""
        if subject.text is None:
            return "it names no tokens, layer by layer"
        if isinstance(subject.network, BlockTransformer):
            return "a BlockTransformer runs two streams through its layers"
        layers = [layer for stack in residual_stacks(subject.network) for layer in stack]
        if not layers or not all(layer.skippable for layer in layers):
            return "its depth has no layers that can be left out one by one"
        return None

    @torch.no_grad()
    def read(self, subject: Subject, seed: int) -> Findings:
        """Ask after every layer, then without every layer."""
        assert subject.text is not None
        tokens = subject.text.test[spread_rows(len(subject.text.test), self.samples)].to(subject.device)
        asked, trunk = token_reading(subject.network, subject.process, tokens, seed), trunk_of(subject.network)
        kept = asked.counted.any(-1)
        lens = logit_lens(early_exits(trunk, asked.evaluate), asked.truth, asked.counted)
        rises = loss_rises(trunk, asked.evaluate, asked.truth, asked.counted)[:, kept]
        moves = state_geometry(depth_states(trunk, asked.evaluate))
        rows: list[Row] = []
        for layer in range(len(lens.cross_entropy)):
            row: dict[str, float] = {"layer": layer}
            for name, values in lens._asdict().items():
                row |= with_error(name, values[layer][kept])
            rows.append(row | {"rank": float(moves.rank[layer])})
        blocks: list[Row] = []
        for index, rise in enumerate(rises):
            row = {"block": index + 1, **with_error("loss_rise", rise), **with_error("step", moves.step[index])}
            turn = with_error("angle", moves.angle[index - 1]) if index else {"angle": 0.0, "angle_se": 0.0}
            blocks.append(row | turn)
        means = rises.mean(-1)
        metrics = {
            "final_nats": estimate(lens.cross_entropy[-1][kept]),
            "agreement_half_way": estimate(lens.agreement[len(rises) // 2][kept]),
            "loss_rise": {f"block_{index + 1}": estimate(rise) for index, rise in enumerate(rises)},
            "prunable_blocks": int((means < self.prunable).sum()),
            "angle": estimate(moves.angle.mean(0)) if len(rises) > 1 else 0.0,
            "final_rank": float(moves.rank[-1]),
        }
        protocol = (
            f"{int(kept.sum())} test sequences at times spread evenly, open positions; errors over sequences; "
            f"a block is prunable if the loss rises by less than {self.prunable:g} nats per token without it"
        )
        return Findings(metrics, {"lens": rows, "blocks": blocks}, protocol=protocol)
