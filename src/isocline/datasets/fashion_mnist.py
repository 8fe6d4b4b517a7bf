"""Fashion-MNIST: the official files, or the same content out of Debian's package, which is read, not installed."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from isocline.datasets.download import DownloadError, download, naming_damage, run_package_tool, verify_bytes
from isocline.datasets.images import ImageArrays, ImageDataset, LoadedImages

__all__ = ["FashionMNIST", "ar_members", "read_idx"]

AR_MAGIC, AR_HEADER, AR_HEADER_END = b"!<arch>\n", 60, b"`\n"
IDX_UINT8 = 0x08


class FashionMNIST(ImageDataset):
    """70,000 pictures of clothes, 28×28 grey, with the official test part of 10,000.

    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    2017. The official URL is tried first, then ``apt-get download dataset-fashion-mnist``. Debian packs the files
    anew, so the decompressed content is what both are checked against.

    Args:
        folder: cache of what was fetched.
        url: folder of the four official files.
        digests: sha256 of the decompressed content by file name; the real ones unless told (tests).
    """

    name = "fashion_mnist"
    source = "github.com/zalandoresearch/fashion-mnist, or Debian dataset-fashion-mnist"
    licence = "MIT"
    classes = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    files: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    archives: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }

    def __init__(
        self,
        folder: str = "downloads/fashion-mnist",
        url: str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.url = url
        self.digests = dict(digests or self.files)

    def load(self) -> LoadedImages:
        """Read the four files from the cache, the URL or Debian's package, in this order."""
        contents = self._cached_package() if self._package().exists() else self._official_or_package()
        for name, content in contents.items():
            verify_bytes(f"fashion-mnist {name}", content, self.digests[name])
        parts = [
            ImageArrays(
                read_idx(contents[f"{part}-images-idx3-ubyte"]).unsqueeze(1),
                read_idx(contents[f"{part}-labels-idx1-ubyte"]).long(),
            )
            for part in ("train", "t10k")
        ]
        return LoadedImages(parts[0], parts[1])

    def _package(self) -> Path:
        return self.folder / "dataset-fashion-mnist.deb"

    def _official_or_package(self) -> dict[str, bytes]:
        try:
            return {
                name: gzip.decompress(
                    download(f"{self.url}/{name}.gz", self.folder / f"{name}.gz", md5, "md5").read_bytes()
                )
                for name, md5 in self.archives.items()
            }
        except DownloadError as official:
            try:
                run_package_tool(["apt-get", "download", "dataset-fashion-mnist"], "*.deb", self._package())
            except DownloadError as package:
                raise DownloadError(f"{official}. Debian's package did not come either: {package}") from official
            return self._cached_package()

    def _cached_package(self) -> dict[str, bytes]:
        path = self._package()
        wanted = {f"{name}.gz": name for name in self.digests}
        found: dict[str, bytes] = {}
        for member, content in ar_members(path.read_bytes(), str(path)):
            if member.startswith("data.tar"):
                with naming_damage(path), tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
                    for entry in archive:
                        base = Path(entry.name).name
                        if base in wanted and entry.isfile():
                            file = archive.extractfile(entry)
                            assert file is not None
                            found[wanted[base]] = gzip.decompress(file.read())
        if missing := sorted(set(self.digests) - set(found)):
            raise ValueError(f"{path} lacks {', '.join(missing)}; delete it and run again")
        return found


def ar_members(content: bytes, name: str = "archive") -> Iterator[tuple[str, bytes]]:
    """Iterate over (member name, content) of an ``ar`` archive, the outer format of a Debian package.

    Raises:
        ValueError: if it is not one, is damaged or is cut short.
    """
    if not content.startswith(AR_MAGIC):
        raise ValueError(f"{name} is not an ar archive: it starts with {content[:8]!r}; delete it and run again")
    position = len(AR_MAGIC)
    while position + AR_HEADER <= len(content):
        header = content[position : position + AR_HEADER]
        digits = header[48:58].strip()
        if header[58:] != AR_HEADER_END or not digits.isdigit():
            raise ValueError(f"{name} has no member header at byte {position}; delete it and run again")
        start, size = position + AR_HEADER, int(digits)
        if start + size > len(content):
            raise ValueError(f"{name} is cut short after {len(content)} bytes; delete it and run again")
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), content[start : start + size]
        position = start + size + size % 2


def read_idx(content: bytes) -> Tensor:
    """Parse an IDX file of unsigned bytes (the format of MNIST); returns uint8 of the shape in its header.

    Raises:
        ValueError: if the header is not that of unsigned bytes or the length does not fit it.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UINT8:
        raise ValueError(f"not an IDX file of unsigned bytes: header {content[:4].hex()}")
    rank = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"IDX header says shape {shape}, but {values.size} values follow; the file is damaged")
    return torch.from_numpy(values.reshape(shape).copy())
