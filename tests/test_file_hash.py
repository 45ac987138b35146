"""Hashes of files: a name is believed in the hub's cache alone, and what is remembered is of the file as it was."""

import hashlib
import os
from pathlib import Path

import pytest

from cpbench import files
from cpbench.backbones import hub
from cpbench.files import file_hash

NAME = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "remembered"))
    monkeypatch.setattr(hub, "WORTH_REMEMBERING", 0)
    return tmp_path / "hub"


def linked(folder: Path, content: bytes = b"weights") -> tuple[Path, Path]:
    """(a link in a snapshot, the blob called NAME that it leads to), as the hub's cache has them."""
    blob, link = folder / "blobs" / NAME, folder / "snapshots" / "main" / "model.safetensors"
    for file in (blob, link):
        file.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    return link, blob


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_blob_of_the_hubs_cache_is_known_by_its_name_as_long_as_its_size_stays(cache: Path) -> None:
    link, blob = linked(cache / "models--someone--model")
    assert hub.file_hash(link) == hub.file_hash(blob) == NAME
    blob.write_bytes(b"weight")  # cut off
    assert hub.file_hash(link) == sha256(b"weight")


@pytest.mark.parametrize("where", ["models--someone--model", "hub/elsewhere", "hub/datasets--x--y", "plain"])
def test_a_name_counts_nowhere_else(where: str, cache: Path, tmp_path: Path) -> None:
    link, blob = linked(tmp_path / where)
    assert hub.file_hash(link) == hub.file_hash(blob) == sha256(b"weights")
    beside = cache / "models--someone--model" / NAME  # in the cache, but no blob
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"other")
    assert hub.file_hash(beside) == sha256(b"other")


def test_a_file_is_read_once_and_again_when_it_changed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    genuine = file_hash
    monkeypatch.setattr(files, "file_hash", lambda file: read.append(file) or genuine(file))
    monkeypatch.setattr(hub, "JUST_WRITTEN", -(10**12))  # as if all of this were long ago
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    assert [hub.file_hash(file) for _ in range(3)] == [sha256(b"weights")] * 3 and len(read) == 1
    before = file.stat()
    file.write_bytes(b"WEIGHTS")  # of the same size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert hub.file_hash(file) == sha256(b"WEIGHTS") and len(read) == 2
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(b"another")
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))  # as unpacking does
    assert hub.file_hash(copy) == sha256(b"another")


def test_a_file_that_was_just_written_is_not_remembered(cache: Path, tmp_path: Path) -> None:
    """It may be written again within one tick of its times."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    hub.file_hash(file)
    assert not list((tmp_path / "remembered").rglob("*.json"))
