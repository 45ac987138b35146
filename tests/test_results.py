"""Files that are whole or not there, hashes that tell settings apart, and matrices from the long table."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpbench.errors import UserError
from cpbench.files import (
    MOST_JSON,
    escape_markdown,
    prepare_folder,
    read_json,
    short_hash,
    write_atomically,
    write_json,
)
from cpbench.metrics import matrices
from cpbench.metrics.matrices import reference_row
from cpbench.records import machine, tables
from cpbench.records.folder import run_folder

# Writing


@contextmanager
def little_room(most: int) -> Iterator[None]:
    """No file may grow past `most` bytes: what is written after them fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_writing_makes_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for data in (b"one", b"", b"three" * 1000):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [f.name for f in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644  # others may read it


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError), little_room(1000):
        write_atomically(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_or_replaced_leaves_all_as_it_was(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    path.write_bytes(b"old")
    folder.mkdir()
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    with pytest.raises(OSError):
        write_atomically(folder, b"new")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [path, folder] and list(folder.iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(), t, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value == json.loads(path.read_bytes())


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff\xfe\x00", b"a: 1", None])
def test_broken_json_is_none(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "file.json"
    if data is not None:
        path.write_bytes(data)
    assert read_json(path) is None


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            prepare_folder(folder)
        assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(UserError, match="cannot be written"):
            prepare_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


# The hash

FACTS = {
    "method": "seqlora",
    "method_file": "ab12",
    "options": {"steps": 3, "rank": 4, "target_modules": ["to_q", "to_k"]},
    "sequence": "cd34",
    "images": {"dog": "ef", "cat": "01"},
    "backbone": "56",
    "judges": {"clip": "78", "dino": "9a"},
    "sampler": {"num_inference_steps": 10, "guidance_scale": 4.0},
    "pictures_per_prompt": 2,
    "dtype": "torch.float32",
}


def leaves(value: object, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_hash_changes_with_every_fact() -> None:
    hashes = {short_hash(FACTS)}
    paths = list(leaves(FACTS))
    for path in paths:
        other = json.loads(json.dumps(FACTS))
        spot = other
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = "something else"
        hashes.add(short_hash(other))
        del spot[path[-1]]
        hashes.add(short_hash(other))
    for name in FACTS["images"]:  # and with what belongs to which name
        hashes.add(short_hash(FACTS | {"images": {name: "ef"}}))
    hashes.add(short_hash(FACTS | {"options": FACTS["options"] | {"target_modules": ["to_k", "to_q"]}}))
    assert len(hashes) == 1 + 2 * len(paths) + 1 + 1  # {"dog": "ef"} is FACTS without the cat
    assert all(len(h) == 8 and int(h, 16) >= 0 for h in hashes)


@given(st.permutations(list(FACTS)), st.permutations(list(FACTS["options"])))
def test_hash_is_independent_of_the_order_of_keys(outer: list[str], inner: list[str]) -> None:
    shuffled = {k: FACTS[k] for k in outer} | {"options": {k: FACTS["options"][k] for k in inner}}
    assert short_hash({k: shuffled[k] for k in outer}) == short_hash(FACTS)


# Scores


def table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["row", "kind", "concept", "prompt", "index", "metric", "value"])


BY_HAND = table(
    [
        (0, "cell", "b", "p", 0, "dino", 0.1),
        (0, "cell", "b", "p", 1, "dino", 0.3),
        (0, "cell", "b", "q", 0, "dino", 0.8),
        (0, "cell", "a", "p", 0, "dino", 0.5),
        (0, "real", "a", "", 0, "dino", 0.9),
        (0, "real", "b", "", 0, "dino", 0.7),
        (0, "oracle", "a", "p", 0, "dino", 0.6),
        (0, "oracle", "a", "q", 0, "dino", 0.2),
        (1, "cell", "b", "p", 0, "dino", 0.4),
        (2, "cell", "b", "p", 0, "dino", 0.2),
        (2, "cell", "a", "p", 0, "dino", 0.6),
        (2, "cell", "a", "p", 0, "clip_t", -0.25),
        (1, "cell", "b", "p", 0, "clip_t", 0.25),
    ]
)


def test_matrices_are_the_means_of_cells_by_concept() -> None:
    found = matrices.matrices(BY_HAND, ["b", "a"])
    assert set(found) == {"dino", "clip_t"}
    assert list(found["dino"].columns) == ["b", "a"] and list(found["dino"].index) == [0, 1, 2]
    np.testing.assert_allclose(found["dino"], [[0.4, 0.5], [0.4, np.nan], [0.2, 0.6]])
    assert list(found["clip_t"].index) == [1, 2]
    np.testing.assert_allclose(found["clip_t"], [[0.25, np.nan], [np.nan, -0.25]])
    np.testing.assert_allclose(matrices.matrices(BY_HAND, ["a"])["dino"], [[0.5], [np.nan], [0.6]])


def test_reference_rows_are_means_by_concept_in_the_order_asked_for() -> None:
    np.testing.assert_allclose(reference_row(BY_HAND, "real", "dino", ["b", "a"]), [0.7, 0.9])
    np.testing.assert_allclose(reference_row(BY_HAND, "oracle", "dino", ["b", "a"]), [np.nan, 0.4])
    np.testing.assert_allclose(reference_row(BY_HAND, "real", "clip_t", ["a"]), [np.nan])


def test_scores_are_written_the_same_in_any_order_of_rows_and_read_back(tmp_path: Path) -> None:
    for n in range(3):
        shuffled = BY_HAND.sample(frac=1, random_state=n)[BY_HAND.columns[::-1]]
        tables.write_scores(tmp_path / f"{n}.csv", shuffled)
    assert len({(tmp_path / f"{n}.csv").read_bytes() for n in range(3)}) == 1
    keys = ["row", "kind", "concept", "prompt", "index", "metric"]
    read = tables.read_scores(tmp_path / "0.csv")
    assert read is not None and list(read.columns) == [*keys, "value"]
    expected = {tuple(r[:-1]): r[-1] for r in BY_HAND.itertuples(index=False)}
    assert {tuple(r[:-1]): r[-1] for r in read.itertuples(index=False)} == expected
    tables.write_scores(tmp_path / "again.csv", read)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "0.csv").read_bytes()


@pytest.mark.parametrize("name", ["007", "null", "nan", "NA", "None", "true", "1e5", "dog, red", '"dog"', "ß"])
def test_names_that_look_like_something_else_stay_names(tmp_path: Path, name: str) -> None:
    rows = [(0, "cell", name, name, 0, "dino", 0.5), (1, "cell", name, name, 0, "dino", float("nan"))]
    tables.write_scores(tmp_path / "scores.csv", table(rows))
    read = tables.read_scores(tmp_path / "scores.csv")
    assert read is not None
    assert list(read["concept"]) == list(read["prompt"]) == [name, name]
    np.testing.assert_array_equal(read["value"], [0.5, np.nan])  # not defined is not 0
    assert list(matrices.matrices(read, [name])["dino"].columns) == [name]
    np.testing.assert_array_equal(matrices.matrices(read, [name])["dino"], [[0.5], [np.nan]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"row,kind\n0,cell\n",
        b"row,kind,concept,prompt,index,metric,value,more\n0,cell,a,p,0,dino,0.5,1\n",
        b"row,kind,concept,prompt,index,metric,value\n0,cell,a,p,0,dino,0.5\n0,ce,a,p,0,dino,0.5,0.5,0.5\n",
        b"\xff\xfe\x00\x01",
        *(
            b"row,kind,concept,prompt,index,metric,value\n" + row
            for row in (
                b"zero,cell,a,p,0,dino,0.5\n",
                b"0,cell,a,p,0,dino,much\n",
                b"0.5,cell,a,p,0,dino,0.5\n",
                b",cell,a,p,0,dino,0.5\n",
                b"9" * 400 + b",cell,a,p,0,dino,0.5\n",
                b"0,cell,a,p,1e99,dino,0.5\n",
                b'0,cell,"a,p,0,dino,0.5\n',
                b"\0" * 400,
                b"0,cell,a,p,0,dino,0.5\n1,cell,a,p,0,dino,0.12",
                b"0,cell,a,p,0,dino,0.5\n1,cell,a,p,0,dino",
            )
        ),
        None,
    ],
)
def test_broken_scores_are_none(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "scores.csv"
    if data is not None:
        path.write_bytes(data)
    assert tables.read_scores(path) is None


@pytest.mark.parametrize("value", ["inf", "-inf", "1e308", "1e400", "-1e400", ""])
def test_extreme_scores_are_read_and_averaged(tmp_path: Path, value: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"row,kind,concept,prompt,index,metric,value\n0,cell,a,p,0,dino,{value}\n1,cell,a,p,0,dino,0.5\n")
    read = tables.read_scores(path)
    assert read is not None and matrices.matrices(read, ["a"])["dino"].loc[1, "a"] == 0.5


def test_a_record_that_is_nested_without_end_too_large_or_no_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[" * 10**5)
    assert read_json(path) is None
    path.write_text("1" * 5000)
    assert read_json(path) is None
    with path.open("wb") as file:
        file.truncate(MOST_JSON + 1)  # takes no room on the disk
    assert read_json(path) is None
    path.unlink()
    os.mkfifo(path)
    assert read_json(path) is None  # and is not waited for
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read_json(path) is None


# Somebody's words in Markdown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("dcscore variant=ewc-dc", "dcscore variant=ewc-dc"),
        ("joint*", "joint*"),
        ("a | b", r"a \| b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("`rm`", r"\`rm\`"),
        ("[click](http://evil)", r"\[click\](http&#58;//evil)"),
        ("![](x.png)", r"!\[\](x.png)"),
        ("www.evil.com", "www&#46;evil.com"),
        ("a\n\n# b\t| c", r"a # b \| c"),
        ("\\|", r"\\\|"),
    ],
)
def test_words_of_others_are_only_words_in_markdown(words: str, shown: str) -> None:
    assert escape_markdown(words) == shown


# Where things are


def test_run_folder_keeps_settings_seeds_and_orders_apart() -> None:
    args = ("seq", "miniature", "seqlora", "12345678")
    assert run_folder(Path("out"), *args, 2, 3) == Path("out/seq/miniature/seqlora/12345678/order2-seed3")


def test_versions_and_commit_are_those_installed() -> None:
    import torch

    found = machine.versions()
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__ and "cpbench" in found
    head = machine.commit()
    git = Path(__file__).parents[1] / ".git"
    assert (head is not None and len(head.removesuffix("+")) == 40) if git.exists() else True
