"""Reading: when, and in which order, a sampler of text commits to its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.commitment import TokenCommitment, token_commitment
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, estimate, positive, with_error
from isocline.processes.corruption import AbstractCorruption
from isocline.randomness import generator
from isocline.samplers.token_law import Sharpening, TokenLaw

__all__ = ["CommitmentReading"]


@dataclass(frozen=True)
class CommitmentReading(AbstractReading):
    """The time at which each position takes its final token, and whether left or frequent tokens come first.

    Of a model of a Markov chain the arg-max of its law at the same states is read as well: it has its answer before
    the state does.

    Attributes:
        samples: sequences.
        nfe: evaluations of the model's own sampler.
    """

    samples: int = 32
    nfe: int = 32

    def __post_init__(self) -> None:
        positive(self, "samples", "nfe")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a sampler of text."""
        return None if subject.text is not None and subject.sampler is not None else "it writes no tokens"

    def read(self, subject: Subject, seed: int) -> Findings:
        """Sample with every state kept, and read."""
        assert subject.text is not None
        shape = (self.samples, subject.text.test.shape[1])
        stream = generator(seed, "commitment", device=subject.device)
        solution = subject.sampler.sample(subject.network, subject.process, shape, self.nfe, stream, save_steps=True)
        solution.raise_on_failure()
        tokens = solution.ys.long()
        state = token_commitment(solution.ts, tokens)
        frequency = subject.text.train.flatten().bincount(minlength=int(tokens.max()) + 1).to(tokens.device)
        metrics = {
            "commitment_time": estimate(state.times.mean(-1)),
            "left_to_right": estimate(state.left_to_right),
            "frequent_first": estimate(state.earliness_by(frequency[tokens[-1]])),
        }
        law = self._law(subject, state.ts, tokens)
        if law is not None:
            metrics["law_commitment_time"] = estimate(law.times.mean(-1))
        rows: list[Row] = []
        for index, t in enumerate(state.ts.mean(-1)):
            row = {"t": float(t), **with_error("committed", state.share[index])}
            rows.append(row | (with_error("law_committed", law.share[index]) if law is not None else {}))
        protocol = f"{self.samples} sequences of its own sampler at {self.nfe} evaluations; errors over sequences"
        return Findings(metrics, {"commitment": rows}, protocol=protocol)

    @torch.no_grad()
    def _law(self, subject: Subject, ts: Tensor, tokens: Tensor) -> TokenCommitment | None:
        """Commitment of the most probable token, of models whose law is a function of time and tokens."""
        if not isinstance(subject.process, AbstractCorruption) or not hasattr(subject.network, "forward"):
            return None
        law = TokenLaw(subject.network, subject.process, Sharpening())
        try:
            guesses = [law(t, z).argmax(-1) for t, z in zip(ts[:-1], tokens[:-1], strict=True)]
        except TypeError:  # a network that reads finished blocks as well as the noisy one
            return None
        # A decided token is what it is, whatever the law says of it.
        decided = [torch.where(subject.process.undecided(z), g, z) for g, z in zip(guesses, tokens[:-1], strict=True)]
        return token_commitment(ts, torch.stack([*decided, tokens[-1]]))
