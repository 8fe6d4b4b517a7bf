"""Statistics of prepared tokens that structured noise is built from: frequencies, and embeddings of contexts."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["context_embeddings", "token_frequencies"]


def token_frequencies(path: str | Path, vocab_size: int, pseudo_count: float = 1.0) -> Tensor:
    """Share of every real symbol in the prepared training text.

    Args:
        path: of the file, usually ``data/text/train.safetensors``.
        vocab_size: vocabulary V, the mask token counted.
        pseudo_count: added to every count, so that no symbol has share 0.

    Returns:
        ``(V − 1,)`` float64, sums to 1.

    Raises:
        FileNotFoundError: if the text is not prepared.
        ValueError: if the file is damaged, holds no tokens or ones outside the vocabulary.
    """
    tokens = _read(Path(path), vocab_size)
    counts = torch.bincount(tokens.flatten(), minlength=vocab_size)[:-1].double() + pseudo_count
    return counts / counts.sum()


def context_embeddings(path: str | Path, vocab_size: int, width: int = 32, window: int = 2) -> Tensor:
    """Embed every real symbol by the symbols that stand near it: unit vectors, close for similar contexts.

    Leading eigenvectors, scaled by the roots of their eigenvalues, of the positive pointwise mutual information of
    symbols within a window ("Neural Word Embedding as Implicit Matrix Factorization", Levy & Goldberg, 2014).

    Args:
        path: of the file, usually ``data/text/train.safetensors``.
        vocab_size: vocabulary V, the mask token counted.
        width: dimensions.
        window: how far apart two symbols may stand.

    Returns:
        ``(V − 1, width)`` float64.

    Raises:
        FileNotFoundError: if the text is not prepared.
        ValueError: if the file is damaged, holds no tokens or ones outside the vocabulary; if the width exceeds the
            number of symbols or the window is below 1.
    """
    symbols = vocab_size - 1
    if not 1 <= width <= symbols or window < 1:
        raise ValueError(f"width = {width}, window = {window}: need 1 <= width <= {symbols} and window >= 1")
    tokens = _read(Path(path), vocab_size)
    pairs = torch.zeros(symbols, symbols, dtype=torch.float64)
    for apart in range(1, min(window, tokens.shape[1] - 1) + 1):
        code = tokens[:, :-apart] * symbols + tokens[:, apart:]
        pairs += torch.bincount(code.flatten(), minlength=symbols**2).view(symbols, symbols)
    pairs = pairs + pairs.T
    share = pairs.sum(-1).clamp_min(1.0) / pairs.sum()
    information = torch.log(pairs / pairs.sum() / (share.unsqueeze(-1) * share)).clamp_min(0.0)
    values, vectors = torch.linalg.eigh(information)
    embeddings = vectors[:, -width:] * values[-width:].clamp_min(0.0).sqrt()
    # A symbol that is never seen has no direction; the origin is as far from every other one.
    return torch.nn.functional.normalize(embeddings, dim=-1)


def _read(path: Path, vocab_size: int) -> Tensor:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `dvc repro` to prepare the text, or `dvc pull` to fetch it")
    try:
        tokens = load_file(path).get("tokens")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from error
    if tokens is None or tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"{path} has no rows of `tokens`; give the train.safetensors of a prepared text")
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size - 1:
        raise ValueError(
            f"{path} has tokens from {int(tokens.min())} to {int(tokens.max())}; vocab_size = {vocab_size} allows 0 to "
            f"{vocab_size - 2}: prepare the text again, or set data.text.vocab_size"
        )
    return tokens.long()
