"""Seeded splits: stratified by label for images, by whole groups or sections where leaks must be kept out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from isocline.datasets.images import ImageArrays, LoadedImages

__all__ = ["assign_sections", "split_images", "split_rows", "stratified_order"]


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Order samples at random so that every prefix holds the classes in their overall shares, to within one.

    A class with n members gets the ranks ``(i + u) / n`` with one u ~ U(0, 1) per class and its members in random
    order; samples are sorted by rank.

    Args:
        labels: class of each sample, ``(N,)`` int64.
        generator: of the draws.

    Returns:
        A permutation ``(N,)`` int64. Disjoint consecutive ranges of it are disjoint stratified splits.
    """
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + offset) / len(members)
    return rank.argsort(stable=True)


def split_images(
    data: LoadedImages, sizes: Mapping[str, int | None], generator: torch.Generator
) -> dict[str, ImageArrays]:
    """Draw the splits of an image set.

    The official test part, where there is one, feeds the split ``test``; everything else comes from the pool. Sets
    with groups are split by whole groups (not stratified: a group is one motif), the others stratified by label.

    Args:
        data: the whole set.
        sizes: images in each split, in order of preference; at most one may be None (all that is left).
        generator: of the draws.

    Returns:
        Arrays by split name, without groups.

    Raises:
        ValueError: if sizes are not positive, or more than there is.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"splits.{name} = {size}: must be at least 1, or null for all that is left")
    from_pool = {name: size for name, size in sizes.items() if data.test is None or name != "test"}
    splits = _split_pool(data.pool, from_pool, generator)
    if data.test is not None and "test" in sizes:
        splits |= _split_pool(data.test, {"test": sizes["test"]}, generator)
    return {name: splits[name] for name in sizes}


def split_rows(count: int, sizes: Mapping[str, int | None], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw disjoint splits of ``count`` rows at random.

    Args:
        count: rows there are.
        sizes: rows in each split; at most one may be None (all that is left).
        generator: of the draw.

    Returns:
        Row indices by split name, int64.

    Raises:
        ValueError: if sizes are not positive, or more than there is.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"splits.{name} = {size}: must be at least 1, or null for all that is left")
    resolved = _resolve(sizes, count, "rows")
    order = torch.randperm(count, generator=generator)
    return dict(zip(resolved, torch.split(order[: sum(resolved.values())], list(resolved.values())), strict=True))


def _split_pool(
    pool: ImageArrays, sizes: Mapping[str, int | None], generator: torch.Generator
) -> dict[str, ImageArrays]:
    resolved = _resolve(sizes, len(pool.images))
    if pool.groups is not None:
        chosen = _by_group(pool.groups, resolved, generator)
    else:
        order, first, chosen = stratified_order(pool.labels, generator), 0, {}
        for name, size in resolved.items():
            chosen[name] = order[first : first + size]
            first += size
    return {name: ImageArrays(pool.images[index], pool.labels[index]) for name, index in chosen.items()}


def _resolve(sizes: Mapping[str, int | None], available: int, unit: str = "images") -> dict[str, int]:
    """Replace the None among the sizes by what is left."""
    asked = sum(size for size in sizes.values() if size is not None)
    open_ended = [name for name, size in sizes.items() if size is None]
    if len(open_ended) > 1:
        raise ValueError(f"splits {', '.join(open_ended)} are all null; only one can take all that is left")
    if asked > available or (open_ended and asked == available):
        raise ValueError(f"splits {dict(sizes)} ask for more than the {available} {unit} there are; ask for less")
    return {name: available - asked if size is None else size for name, size in sizes.items()}


def _by_group(groups: Tensor, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Deal whole groups out, in random order, each to the smallest split that still has room for it."""
    members: dict[str, list[Tensor]] = {name: [] for name in sizes}
    room = dict(sizes)
    names = torch.unique(groups)
    for group in names[torch.randperm(len(names), generator=generator)].tolist():
        index = (groups == group).nonzero().flatten()
        fits = [name for name, left in room.items() if left >= len(index)]
        if not fits:
            continue
        name = min(fits, key=lambda n: (sizes[n], n))
        members[name].append(index)
        room[name] -= len(index)
    empty = [name for name, parts in members.items() if not parts]
    if empty:
        raise ValueError(f"no group of variants fits into splits {', '.join(empty)} of {dict(sizes)}; make them larger")
    return {name: torch.cat(parts).sort().values for name, parts in members.items()}


def assign_sections(
    lengths: Sequence[int], shares: Mapping[str, float], generator: torch.Generator
) -> dict[str, list[int]]:
    """Deal whole sections of a text out so that the splits' character counts come close to their shares.

    Sections are visited in random order, each goes to the split that lacks most of its share.

    Args:
        lengths: characters of each section.
        shares: fraction of all characters wanted in each split; they must be positive and sum to one.
        generator: of the order.

    Returns:
        Indices of the sections of each split, in document order.

    Raises:
        ValueError: if the shares are not such, or there are fewer sections than splits.
    """
    if any(share <= 0.0 for share in shares.values()) or abs(sum(shares.values()) - 1.0) > 1e-9:
        raise ValueError(f"splits {dict(shares)}: shares must be positive and sum to 1")
    if len(lengths) < len(shares):
        raise ValueError(f"{len(lengths)} sections cannot fill {len(shares)} splits; choose a smaller unit")
    missing = {name: share * sum(lengths) for name, share in shares.items()}
    chosen: dict[str, list[int]] = {name: [] for name in shares}
    for index in torch.randperm(len(lengths), generator=generator).tolist():
        name = max(missing, key=lambda n: missing[n])
        chosen[name].append(index)
        missing[name] -= lengths[index]
    if empty := [name for name, indices in chosen.items() if not indices]:
        raise ValueError(f"no section went to {', '.join(empty)}; choose larger shares or a smaller unit")
    return {name: sorted(indices) for name, indices in chosen.items()}
