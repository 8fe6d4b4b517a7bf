"""Watch a text being denoised: every state that the network is asked about, drawn in the terminal as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TextIO

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["DenoisingView", "Frame", "Run", "WatchedNetwork", "framed"]

_CACHES = ("empty_cache", "decode_step", "decode_block")
"""Ways around `forward`: with them hidden a sampler evaluates the whole sequence, and its state can be seen."""


class Run(NamedTuple):
    """Neighbouring tokens in one state: ``given``, ``open``, ``new`` (written since the last frame) or ``written``."""

    text: str
    state: str


class Frame(NamedTuple):
    """One state of the sampling.

    Attributes:
        evaluations: of the network so far; None for the result.
        sequences: each one in runs.
    """

    evaluations: int | None
    sequences: list[list[Run]]


class WatchedNetwork(nn.Module):
    """A network that reports the tokens it is evaluated at, and is otherwise the same.

    A sampler may leave sequences out that need no evaluation. Give it the numbers of the sequences, ``arange(B)``, as
    the condition: it keeps the rows of a condition with those of the state, and here they say whose state this is.

    A state that is no sequence of tokens (logits, embeddings) is shown by the most probable tokens that the network
    gives for it.

    Args:
        network: ``network(t, z, None) -> (B, L, V)`` logits.
        report: called at every evaluation with the numbers ``(n,)`` and the tokens ``(n, L)`` of its sequences.
        begin: the token that an autoregressive network starts from, whose input is shifted by it; None for others.
        labels: the condition that the network is asked under, ``(B,)`` for all sequences, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        report: Callable[[Tensor, Tensor], None],
        begin: int | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.report = report
        self.begin = begin
        self.labels = labels

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _CACHES:
                raise
            return getattr(super().__getattr__("network"), name)

    def forward(self, t: Tensor | None, z: Tensor, cond: Tensor, *more: Any, **named: Any) -> Tensor:
        """Evaluate, then report what was evaluated."""
        labels = None if self.labels is None else self.labels[cond]
        logits: Tensor = self.network(t, z, labels, *more, **named)
        tokens = z
        if z.is_floating_point():
            tokens = logits.argmax(-1)
        elif self.begin is not None:
            tokens = torch.cat([z[:, 1:], torch.full_like(z[:, :1], self.begin)], dim=1)
        self.report(cond, tokens)
        return logits


def framed(
    tokens: Tensor,
    before: Tensor | None,
    fixed: Tensor,
    decode: Callable[[Tensor], str],
    mask: int,
    evaluations: int | None,
) -> Frame:
    """Sort the tokens of a state by what became of them.

    Args:
        tokens: ``(B, L)``.
        before: tokens of the frame before, or None.
        fixed: bool ``(L,)``, given positions.
        decode: tokens ``(n,)`` to text, masks shown.
        mask: the token of an open position.
        evaluations: of the network so far; None for the result.
    """
    sequences = []
    for index, row in enumerate(tokens):
        fresh = torch.zeros_like(fixed) if before is None else row != before[index]
        states = [
            "given" if fixed[i] else "open" if row[i] == mask else "new" if fresh[i] else "written"
            for i in range(len(row))
        ]
        runs, at = [], 0
        for state, members in groupby(states):
            size = len(list(members))
            runs.append(Run(decode(row[at : at + size]), state))
            at += size
        sequences.append(runs)
    return Frame(evaluations, sequences)


class DenoisingView:
    """Draws frames over one another in a terminal; elsewhere it writes one line for each.

    Args:
        console: where to; its ``is_terminal`` decides.
        pause: seconds that a frame stays at least in a terminal.
        most: sequences shown.
    """

    styles: ClassVar[dict[str, str]] = {"given": "bold", "open": "dim", "new": "bold green", "written": ""}

    def __init__(self, console: Console, pause: float = 0.0, most: int = 4) -> None:
        from rich.live import Live

        self.console = console
        self.pause = pause
        self.most = most
        self._live = Live(console=console, auto_refresh=False, transient=True)

    @classmethod
    def on(cls, stream: TextIO, pause: float = 0.0) -> DenoisingView:
        """A view on a stream, standard error for one, so that the texts alone go to standard output."""
        from rich.console import Console

        return cls(Console(file=stream, highlight=False), pause)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, frame: Frame) -> None:
        """Show a frame."""
        if self.console.is_terminal:
            self._live.update(self._drawn(frame), refresh=True)
        else:
            name = "end" if frame.evaluations is None else str(frame.evaluations)
            for runs in frame.sequences[: self.most]:
                text = " ".join("".join(run.text for run in runs).split())
                self.console.print(f"{name:>4}  {text}", markup=False, highlight=False, emoji=False, soft_wrap=True)
            if (hidden := len(frame.sequences) - self.most) > 0 and frame.evaluations is None:
                self.console.print(f"and {hidden} more", markup=False, highlight=False, soft_wrap=True)
        if self.pause and self.console.is_terminal:
            time.sleep(self.pause)

    def _drawn(self, frame: Frame) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        count = frame.evaluations
        head = "done" if count is None else f"evaluation {count}"
        rows = [Text.assemble(*((r.text, self.styles[r.state]) for r in runs)) for runs in frame.sequences[: self.most]]
        hidden = len(frame.sequences) - len(rows)
        more = [Text(f"and {hidden} more", style="dim")] if hidden > 0 else []
        return Group(Text(head, style="dim"), *rows, *more)
