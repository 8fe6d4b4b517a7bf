import hashlib
import sys

import pytest

from isocline.datasets.download import ChecksumError, DownloadError, download, run_package_tool

CONTENT = b"some content" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path.as_uri()


def test_a_file_arrives_under_its_name(source, tmp_path):
    path = download(source, tmp_path / "cache" / "file", SHA256)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_correct_copy_is_not_fetched_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert download("http://does.not.exist.invalid/file", path, SHA256) == path


def test_wrong_content_names_url_expected_and_found_and_leaves_nothing(source, tmp_path):
    with pytest.raises(ChecksumError) as error:
        download(source, tmp_path / "cache" / "file", "0" * 64)
    assert all(part in str(error.value) for part in (source, "0" * 64, SHA256))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_copy_is_named_and_kept_for_inspection(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"damaged")
    with pytest.raises(ChecksumError, match=str(path)):
        download("http://does.not.exist.invalid/file", path, SHA256)
    assert path.read_bytes() == b"damaged"


def test_no_network_is_one_clear_error_with_the_cure(tmp_path):
    with pytest.raises(DownloadError, match="by hand"):
        download("http://127.0.0.1:1/file", tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_tool_is_named(tmp_path):
    with pytest.raises(DownloadError, match=rf"cannot fetch {tmp_path / 'package'}; install no-such-tool, or put"):
        run_package_tool(["no-such-tool", "pack"], "*.tgz", tmp_path / "package")


def test_a_failing_package_tool_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no route to host')"]
    with pytest.raises(DownloadError, match="no route to host"):
        run_package_tool(command, "*.tgz", tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_what_a_package_tool_leaves_is_kept(tmp_path):
    command = [sys.executable, "-c", "open('a.tgz', 'w').write('x')"]
    assert run_package_tool(command, "*.tgz", tmp_path / "package").read_text() == "x"
