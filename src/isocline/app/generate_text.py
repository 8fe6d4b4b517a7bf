"""Generate text with a trained model: go on from a prompt, fill its gaps, show how."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isocline.app.generate import load_fitting, misfit_in_use, reason_of

if TYPE_CHECKING:
    from torch import Tensor

    from isocline.app.artifacts import LoadedModel
    from isocline.app.denoising_view import Frame
    from isocline.app.prompt_layout import PromptLayout
    from isocline.datasets.tokenizer import Tokenizer

__all__ = ["TextRequest", "Written", "generate_text"]


@dataclass(frozen=True)
class TextRequest:
    """What to generate: see ``isocline generate --help``."""

    prompt: str = ""
    length: int | None = None
    nfe: int = 32
    seed: int = 0
    sampler: str | None = None
    count: int = 1
    gap: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    label: int | None = None

    def sampler_options(self) -> dict[str, float]:
        """Arguments that are given to the sampler, by name."""
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "min_p")}
        return {name: value for name, value in given.items() if value is not None}


class Written(NamedTuple):
    """Texts and what is to be said about them.

    Attributes:
        texts: one for each sequence.
        note: what the model did not condition on, or did not read; empty if there is nothing to say.
        nfe: the most evaluations that a sequence took.
    """

    texts: list[str]
    note: str
    nfe: int


def generate_text(name: str, root: Path, request: TextRequest, watch: Callable[[Frame], None] | None = None) -> Written:
    """Generate texts around a prompt.

    Args:
        name: of the model.
        root: the project's directory.
        request: what to generate.
        watch: shown every state, the result last.

    Raises:
        FileNotFoundError: if the model or the tokenizer is not there.
        ValueError: if the model is not one of text, the prompt does not fit or holds unknown symbols, the sampler
            takes no such option, or the model knows no such class.
    """
    import torch

    from isocline.randomness import generator

    model = load_fitting(name, root, request.sampler, "text", options=request.sampler_options())
    tokenizer = _tokenizer(name, model, root)
    longest = int(model.config["network"]["length"])
    length = request.length or longest
    if length > longest:
        raise ValueError(f"--length {length} is more than the model's {longest} tokens; give {longest} at most")
    layout = _layout(request, tokenizer, root, length, longest)
    labels = _labels(name, model, request)
    view = None if watch is None else _View(model, tokenizer, layout, request.count, watch, labels)
    prompt = layout.prompt
    if prompt is not None:
        prompt = (prompt[0].expand(request.count, -1).clone(), prompt[1].expand(request.count, -1).clone())
    try:
        with torch.inference_mode():
            solution = model.sampler.sample(
                model.network if view is None else view.network,
                model.process,
                (request.count, length),
                request.nfe,
                generator(request.seed, "generate"),
                prompt=prompt,
                cond=labels if view is None else torch.arange(request.count),
            )
    except (ValueError, TypeError, AttributeError) as error:
        if reason := misfit_in_use(error, model, request.sampler, root):
            raise ValueError(reason) from error
        raise
    if view is not None:
        view.finish(solution.final)
    notes = (_note(name, model, layout), _unread(request.prompt, root))
    texts = tokenizer.decode_batch(solution.final)
    return Written(texts, "; also, ".join(note for note in notes if note), int(solution.stats.nfe.max()))


def _labels(name: str, model: LoadedModel, request: TextRequest) -> Tensor | None:
    """The class of every text, None for none."""
    import torch

    if request.label is None:
        return None
    classes = int(model.config["network"].get("classes", 0))
    if not classes:
        cure = "leave it out, or train one that is: `isocline compose experiment=conditional_text`, `isocline repro`"
        raise ValueError(f"--label {request.label}: {name} is not class-conditional; {cure}")
    if not 0 <= request.label < classes:
        raise ValueError(f"--label {request.label}: {name} knows the classes 0 to {classes - 1}; give one")
    return torch.full((request.count,), request.label)


def _tokenizer(name: str, model: LoadedModel, root: Path) -> Tokenizer:
    from isocline.datasets.tokenizer import Tokenizer

    path = root / "data" / "text" / "tokenizer.json"
    tokenizer, size = Tokenizer.load(path), model.config["network"].get("vocab_size")
    if size is not None and tokenizer.vocab_size != size:
        raise ValueError(
            f"{path} has {tokenizer.vocab_size} tokens, {name} was trained with {size}; "
            f"run `isocline repro` to train {name} anew, or git checkout its commit and dvc checkout"
        )
    return tokenizer


def _layout(request: TextRequest, tokenizer: Tokenizer, root: Path, length: int, longest: int) -> PromptLayout:
    from isocline.app.prompt_layout import lay_out, merges_characters, pieces_of

    normalise = _normalisation(root) if request.prompt else str
    pieces = pieces_of(request.prompt, normalise, merges_characters(tokenizer))

    def encode(piece: str) -> Tensor:
        try:
            return tokenizer.encode(piece)
        except ValueError as error:
            raise ValueError(f"--prompt {request.prompt!r}: {error}") from error

    if request.gap is not None and len(pieces) == 1:
        raise ValueError("--gap is the length of a gap, and --prompt has none; write one as ___")
    if request.gap is not None and not any(pieces[1:]):
        raise ValueError(
            f"--gap {request.gap}: the gap of --prompt is at its end, where text is written to the end of the window; "
            "end it with --length"
        )
    return lay_out(pieces, encode, length, longest, request.gap)


class _View:
    """A network that shows what it is asked about, and the state of every sequence so far."""

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        layout: PromptLayout,
        count: int,
        watch: Callable[[Frame], None],
        labels: Tensor | None,
    ) -> None:
        from isocline.app.denoising_view import WatchedNetwork

        self.tokenizer, self.layout, self.watch = tokenizer, layout, watch
        self.tokens = layout.tokens.where(layout.fixed, tokenizer.mask_index).repeat(count, 1)
        self.evaluations = 0
        begin = tokenizer.mask_index if model.process is None else None
        self.network = WatchedNetwork(model.network, self._evaluated, begin, labels)

    def _evaluated(self, rows: Tensor, tokens: Tensor) -> None:
        self.evaluations += 1
        state = self.tokens.clone()
        state[rows, : tokens.shape[1]] = tokens[:, : state.shape[1]].long()
        self._show(state, self.evaluations)

    def finish(self, tokens: Tensor) -> None:
        """Show the result."""
        self._show(tokens, None)

    def _show(self, tokens: Tensor, evaluations: int | None) -> None:
        from isocline.app.denoising_view import framed

        fixed, mask = self.layout.fixed, self.tokenizer.mask_index
        tokens = self.layout.tokens.where(fixed, tokens)
        self.watch(framed(tokens, self.tokens, fixed, self.tokenizer.decode, mask, evaluations))
        self.tokens = tokens


def _note(name: str, model: LoadedModel, layout: PromptLayout) -> str:
    """Say what the text is not conditioned on."""
    from isocline.processes.corruption import AbstractCorruption
    from isocline.processes.kernel import AbsorbingKernel
    from isocline.samplers.twisted import TwistedSampler

    late = ", ".join(repr(piece.strip()) for piece in layout.late)
    size = 1 if model.process is None else int(getattr(model.network, "block_length", len(layout.fixed)))
    if layout.leaps_over_blocks(size):
        way, before = ("from left to right", "what stands before")
        if size > 1:
            way, before = (f"by blocks of {size} tokens", "what stands in blocks before")
        return (
            f"{name} writes {way}: {before} {late} was written without knowing it; "
            "a model that sees both sides (masked, for one) fills gaps"
        )
    uncertain = isinstance(model.process, AbstractCorruption) and not isinstance(model.process, AbsorbingKernel)
    if uncertain and layout.prompt is not None and not isinstance(model.sampler, TwistedSampler):
        return (
            f"{name} takes given text for possibly noisy at every step, so it conditions on it only roughly; "
            "--sampler twisted conditions on it by weighted particles"
        )
    return ""


def _unread(prompt: str, root: Path) -> str:
    """Say which characters of a prompt were no more than a space to the model."""
    normalise = _normalisation(root) if prompt else str
    gone = [c for c in dict.fromkeys(prompt) if c.isalnum() and not normalise(c).strip()]
    if not gone:
        return ""
    return f"{' '.join(map(repr, gone))} of --prompt is read as a space, as it was in the training text"


def _normalisation(root: Path) -> Callable[[str], str]:
    """Return how the training text was simplified (the data card says how); nothing without a card."""
    from hydra.errors import InstantiationException

    from isocline.app.artifacts import build

    card = root / "data" / "text" / "card.json"
    if not card.exists():
        return str
    try:
        normalise = build(json.loads(card.read_text(encoding="utf-8")).get("normalise"))
        if normalise is None:
            return str
        normalise("")
    except (ValueError, AttributeError, TypeError, InstantiationException) as error:
        cure = f"delete {card} and run `isocline repro` again"
        raise ValueError(f"{card} is damaged ({reason_of(error)}); {cure}") from error
    return lambda piece: str(normalise(piece))
