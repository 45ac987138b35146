"""What is remembered between processes, and that nothing depends on it."""

from pathlib import Path

import pytest

from cpbench import remembered


def test_what_was_remembered_comes_back_for_the_same_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path))
    key = {"file": "a", "size": 3}
    assert remembered.recall("hashes", key) is None
    remembered.remember("hashes", key, {"sha256": "x"})
    assert remembered.recall("hashes", key) == {"sha256": "x"}
    assert remembered.recall("hashes", key | {"size": 4}) is None
    assert remembered.recall("figures", key) is None


def test_an_entry_of_another_key_or_a_damaged_one_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path))
    remembered.remember("hashes", "a", 1)
    (file,) = (tmp_path / "hashes").rglob("*.json")
    whole = file.read_text()
    file.write_text(whole.replace('"a"', '"b"'))
    assert remembered.recall("hashes", "a") is None
    file.write_text(whole[:-5])
    assert remembered.recall("hashes", "a") is None


def test_without_a_folder_or_where_none_can_be_written_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", "")
    assert remembered.folder() is None
    remembered.remember("hashes", "a", 1)
    assert remembered.recall("hashes", "a") is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "file"))
    remembered.remember("hashes", "a", 1)
    assert remembered.recall("hashes", "a") is None
    monkeypatch.delenv("CPBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert remembered.folder() == tmp_path / "x" / "cpbench"
