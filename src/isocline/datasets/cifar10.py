"""CIFAR-10 in its binary version: plain records, nothing to unpickle."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import torch

from isocline.datasets.download import download
from isocline.datasets.images import ImageArrays, ImageDataset, LoadedImages

__all__ = ["CIFAR10"]

RECORD = 1 + 3 * 32 * 32


class CIFAR10(ImageDataset):
    """60,000 photographs, 32×32 RGB, with the official test part of 10,000.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. A record is one label byte and 3,072
    pixel bytes (red, green, blue planes in row order).

    Args:
        folder: cache of the archive.
        url: of ``cifar-10-binary.tar.gz``.
        md5: expected digest of the archive, as its site gives it.
    """

    name = "cifar10"
    source = "www.cs.toronto.edu/~kriz/cifar.html, binary version"
    licence = "none stated; cite the report"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(
        self,
        folder: str = "downloads/cifar-10",
        url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: str = "c32a1d4ab5d03f1284b67883e8d87530",
    ) -> None:
        self.folder = Path(folder)
        self.url = url
        self.md5 = md5

    def load(self) -> LoadedImages:
        """Fetch, verify and read the archive."""
        path = download(self.url, self.folder / "cifar-10-binary.tar.gz", self.md5, "md5")
        records: dict[str, bytes] = {}
        with tarfile.open(path) as archive:
            for entry in archive:
                if entry.isfile() and entry.name.endswith(".bin"):
                    file = archive.extractfile(entry)
                    assert file is not None
                    records[Path(entry.name).name] = file.read()
        train = sorted(name for name in records if name.startswith("data_batch"))
        if not train or "test_batch.bin" not in records:
            raise ValueError(f"{path} holds {sorted(records)}; expected data_batch_*.bin and test_batch.bin")
        return LoadedImages(_read(b"".join(records[name] for name in train)), _read(records["test_batch.bin"]))


def _read(content: bytes) -> ImageArrays:
    """Parse records of one label byte and 3,072 pixel bytes."""
    if len(content) % RECORD:
        raise ValueError(f"CIFAR-10 records have {len(content)} bytes in all; expected a multiple of {RECORD}")
    table = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    images = torch.from_numpy(table[:, 1:].copy()).reshape(-1, 3, 32, 32)
    return ImageArrays(images, torch.from_numpy(table[:, 0].astype(np.int64)))
