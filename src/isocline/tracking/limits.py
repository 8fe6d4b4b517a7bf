"""What the store takes at once: names, lengths, and events grouped into calls."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from isocline.tracking.spool import Event

__all__ = [
    "METRICS_AT_ONCE",
    "PARAMS_AT_ONCE",
    "PARAM_LIMIT",
    "TAGS_AT_ONCE",
    "TAG_LIMIT",
    "allowed",
    "batches",
    "shorten",
]

METRICS_AT_ONCE, PARAMS_AT_ONCE, TAGS_AT_ONCE = 800, 90, 90
KEY_LIMIT, PARAM_LIMIT, TAG_LIMIT = 250, 6000, 5000
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


def shorten(value: str, limit: int) -> str:
    """Cut a value that the store would refuse; its digest tells two long values apart."""
    if len(value) <= limit:
        return value
    mark = f"… md5:{hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()}"
    return value[: limit - len(mark)] + mark


def allowed(key: str) -> str:
    """A name that the store accepts: what it forbids (the ``@`` of a stage) becomes a colon."""
    return _FORBIDDEN.sub(":", key)[:KEY_LIMIT]


def batches(events: Iterator[tuple[Event, int]]) -> Iterator[tuple[list[Event], int]]:
    """Group events so that what is sent in one call keeps the stage's order and the store's limits.

    Args:
        events: pairs of an event and the offset behind it.

    Yields:
        A group and the offset behind its last event.
    """
    group: list[Event] = []
    size, last = 0, 0
    for event, offset in events:
        batched = event["e"] in ("metrics", "params", "tags")
        weight = len(event.get("v", "")) if batched else 1
        if group and (not batched or size + weight > METRICS_AT_ONCE):
            yield group, last
            group, size = [], 0
        if batched:
            group.append(event)
            size += weight
        else:
            yield [event], offset
        last = offset
    if group:
        yield group, last
