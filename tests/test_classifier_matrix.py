"""The model as a classifier of its concepts' real pictures: numbers by hand and by loop, a real run, kills, strangers."""

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import THREE
from hypothesis import given
from hypothesis import strategies as st
from test_html_report import make_run, record

import cpbench
from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.concepts import images
from cpbench.errors import UserError
from cpbench.files import read_json, write_atomically, write_json
from cpbench.finished import classifier_matrix as cm
from cpbench.finished import load, scoring
from cpbench.method import Method, NotDefined, State
from cpbench.output import collected
from cpbench.records.folder import RunFolder
from cpbench.records.reading import parsed, read
from cpbench.report import data as report_data
from cpbench.report import page
from cpbench.running.bookkeeping import shown_files
from cpbench.running.progress import Reporter

# From errors to shares


def test_shares_by_hand() -> None:
    """Two of the first's three pictures are its own, the third is half the second's; nobody's picture is the third's."""
    errors = [[0.1, 0.2, 0.3], [0.1, 0.3, 0.2], [0.2, 0.2, 0.3], [0.5, 0.4, 0.6], [0.7, 0.7, 0.7]]
    counts = cm.confusion(errors, [0, 0, 0, 1, 2])
    third = 1 / 3
    np.testing.assert_allclose(counts, [[2.5, 0.5, 0], [0, 1, 0], [third, third, third]])
    np.testing.assert_allclose(cm.accuracy(counts), [2.5 / 3, 1, third])
    assert np.isnan(cm.accuracy([[1.0, 0], [0, 0]])).tolist() == [False, True]  # of one without pictures
    with pytest.raises(ValueError, match="not finite"):
        cm.votes([[0.1, float("nan")]])


@st.composite
def asked(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Errors (n, k) of few values, so that many are equal, and whose pictures they are of."""
    n, k = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    value = st.sampled_from([0.1, 0.2, 0.25, 0.5])
    errors = draw(st.lists(st.lists(value, min_size=k, max_size=k), min_size=n, max_size=n))
    return np.array(errors), draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))


@given(asked())
def test_shares_by_loop(given_: tuple[np.ndarray, list[int]]) -> None:
    errors, own = given_
    k = errors.shape[1]
    expected = [[0.0] * k for _ in range(k)]
    for e, j in zip(errors.tolist(), own, strict=True):
        nearest = [i for i in range(k) if not any(other < e[i] for other in e)]
        for i in nearest:
            expected[j][i] += 1 / len(nearest)
    counts = cm.confusion(errors, own)
    np.testing.assert_allclose(counts, expected)
    np.testing.assert_allclose(cm.confusion(2 * errors + 1, own), counts)  # only the order of errors counts
    for j, share in enumerate(cm.accuracy(counts)):
        n = own.count(j)
        assert np.isnan(share) if n == 0 else share == pytest.approx(expected[j][j] / n)


# Asking the model


def test_errors_by_loop(miniature: Backbone, make_task: Callable) -> None:
    """A picture's error is the plain mean over draws that every picture shares; cutting into batches changes nothing."""
    pictures, draws = make_task(miniature, "dog", n=3).images, 3
    batch = cm.noised(miniature, pictures, draws)
    assert (
        batch.timesteps.tolist() == [166, 500, 833] * 3
        and batch.picture_indices.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    )
    for k in range(draws):
        assert torch.equal(batch.noise[k], batch.noise[k + 3]) and torch.equal(batch.noise[k], batch.noise[k + 6])
    latents, alphas = miniature.encode_images(pictures)[0], miniature.process.scheduler.alphas_cumprod
    expected = []
    for n in range(3):
        of_draws = []
        for k, t in enumerate((166, 500, 833)):
            noisy = alphas[t].sqrt() * latents[n] + (1 - alphas[t]).sqrt() * batch.noise[k]
            with torch.no_grad():
                words = miniature.encode_prompts(["a photo of a dog"])
                guess = miniature.predict(noisy[None], torch.tensor([t]), words)[0]
            of_draws.append(float(((guess - batch.noise[k]) ** 2).mean()))
        expected.append(np.mean(of_draws))
    for most in (64, 4, 1):
        found = cm.mean_errors(miniature, "dog", batch, draws, most)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    other = cm.mean_errors(miniature, "vase", batch, draws, 64)
    assert (np.abs(other - found) > 1e-4).all()  # words matter


# Runs


OPTIONS = {"steps": 4, "batch_size": 1, "rank": 2, "learning_rate": 1e-2, "token_learning_rate": 3e-2}


@pytest.fixture(scope="session")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """alike(method): the folder of a finished run over three concepts, two of one noun, made once."""
    folder = tmp_path_factory.mktemp("alike")
    (folder / "alike.yaml").write_text(THREE.replace("name: three", "name: alike"))

    def run(method: str) -> Path:
        given = {"method": method, "sequence": str(folder / "alike.yaml"), "output": folder / "out"}
        return cpbench.run(**given, options=OPTIONS)["folder"]

    return run


@pytest.fixture
def ran(alike: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(alike("seqlora"), tmp_path / "run"))


@pytest.fixture(scope="session")
def classified(alike: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`seqlora`'s run with all rows of one draw, made once."""
    folder = Path(shutil.copytree(alike("seqlora"), tmp_path_factory.mktemp("classified") / "run"))
    assert cm.classify(folder, device="cpu", draws=1).spent == (100, 100)
    return folder


@pytest.fixture
def ready(classified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classified, tmp_path / "ready"))


@pytest.fixture(autouse=True)
def loaded(miniature: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone that all tests share, instead of one for every command: it is restored after every use."""
    monkeypatch.setattr(loading, "load", lambda *given: miniature)


@pytest.fixture
def counted(ran: Path, miniature: Backbone) -> Iterator[list[int]]:
    """Pictures in every call of the UNet from here on."""
    calls: list[int] = []
    hook = miniature.denoiser.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    yield calls
    hook.remove()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def by_loop(folder: Path, t: int, draws: int) -> list[list[str]]:
    """For each concept of row t, whom the model takes its pictures for, one noised latent at a time."""
    it = load.open_run(folder, t, "cpu")
    backbone, names = it.backbone, list(it.nouns)
    alphas, found = backbone.process.scheduler.alphas_cumprod, []
    for j in names:
        latents, errors = backbone.encode_images(images.rendered(j))[0], {}
        batch = cm.noised(backbone, images.rendered(j)[:1], draws)
        for i in names:
            with load.installed(it, (i,)), torch.no_grad():
                words = backbone.encode_prompts([f"a photo of a {it.phrase(i)}"])
                for n, z in enumerate(latents):
                    for step, noise in zip(batch.timesteps, batch.noise, strict=True):
                        noisy = alphas[step].sqrt() * z + (1 - alphas[step]).sqrt() * noise
                        guess = backbone.predict(noisy[None], step[None], words)[0]
                        errors[n, i] = errors.get((n, i), 0.0) + float((guess - noise).square().mean())
        found.append([min(names, key=lambda i, n=n: errors[n, i]) for n in range(len(latents))])
    return found


def test_a_run_by_loop(ran: Path, counted: list[int]) -> None:
    before = contents(ran)
    done = cm.classify(ran, device="cpu", draws=2)
    assert {k: v for k, v in contents(ran).items() if not k.startswith("classifier/")} == before
    assert shown_files(RunFolder(ran)) == read_json(ran / "run.json")["files"]
    # row 0: two nouns, 15 pictures; rows 1, 2, 3: as many candidates as concepts; every picture twice
    assert sum(counted) == done.spent[0] == done.spent[1] == 2 * 5 * (2 * 3 + 1 * 1 + 2 * 2 + 3 * 3)
    assert max(counted) <= 32
    table = pd.read_csv(done.folder / "confusion.csv")
    assert list(table.columns) == ["row", "concept", "nearest", "count"]
    assert set(table.groupby(["row", "concept"])["count"].sum().round(4)) == {5.0}
    concepts = ["dog", "vase", "dog2"]
    for j, taken in zip(concepts, by_loop(ran, 3, 2), strict=True):
        own = table[(table["row"] == 3) & (table["concept"] == j)].set_index("nearest")["count"]
        assert own.to_dict() == {i: taken.count(i) for i in concepts}
        assert done.matrix.loc[3, j] == pytest.approx(taken.count(j) / 5)
    assert len(set(table["count"])) > 2  # there is something to get wrong
    matrix = pd.read_csv(done.folder / "matrix.csv", index_col="row")
    assert list(matrix.columns) == concepts and list(matrix.index) == [0, 1, 2, 3]
    usual = pd.read_csv(ran / "matrix-dino.csv", index_col="row")
    assert (matrix.isna() == usual.isna()).all(axis=None) and list(usual.columns) == concepts
    pd.testing.assert_frame_equal(matrix, done.matrix, atol=1e-6)
    assert matrix.loc[1, "dog"] == 1  # of one candidate
    told = read_json(done.folder / "classifier.json")
    assert told["timesteps"] == [250, 750] and told["settings"]["template"] == "a photo of a {}"
    assert told["unet_evaluations"] == done.spent[0] and list(told["rows"]) == ["0", "1", "2", "3"]
    assert told["versions"]["torch"]


def test_words_that_are_equal_share_the_pictures(ran: Path) -> None:
    """In row 0 both dogs are "a photo of a dog": each of their pictures is half the one's and half the other's."""
    done = cm.classify(ran, [0], device="cpu")
    table = pd.read_csv(done.folder / "confusion.csv").pivot(index="concept", columns="nearest", values="count")
    np.testing.assert_allclose(table["dog"], table["dog2"])
    np.testing.assert_allclose(done.matrix.loc[0], np.diagonal(table.loc[done.matrix.columns, done.matrix.columns]) / 5)
    assert done.matrix.loc[0, "dog"] <= 0.5 and done.matrix.loc[0, "vase"] > 0.5  # what is no dog it does tell
    assert table.loc[["dog", "dog2"], "dog"].sum() > table.loc[["dog", "dog2"], "vase"].sum()


def test_one_concept_at_a_time_and_nothing_asked_twice(alike: Callable[[str], Path], tmp_path: Path) -> None:
    """`isolated` can ready one concept only; what its LoRA said of a picture in one row holds for the others."""
    folder = Path(shutil.copytree(alike("isolated"), tmp_path / "run"))
    done = cm.classify(folder, [1, 2, 3], device="cpu", draws=1)
    told = read_json(done.folder / "classifier.json")["rows"]
    assert [told[t]["unet_evaluations"] for t in "123"] == [5 * n for n in (1, 3, 5)]  # 9 pairs in all, not 14
    alone = cm.classify(Path(shutil.copytree(alike("isolated"), tmp_path / "alone")), [3], device="cpu", draws=1)
    assert alone.spent[0] == 45
    np.testing.assert_array_equal(alone.matrix.loc[3], done.matrix.loc[3])
    assert cm.classifier_figures(done.matrix)["forgetting"] == pytest.approx(
        np.mean(
            [done.matrix["dog"][[1, 2]].max() - done.matrix["dog"][3], done.matrix["vase"][2] - done.matrix["vase"][3]]
        )
    )


class Halting(Method):
    """One that cannot ready the concept "vase"."""

    def install(self, backbone: Backbone, state: State, concepts: tuple[str, ...], prompts: Any = ()) -> None:
        if "vase" in concepts:
            raise NotDefined("no vases")

    def phrase(self, concept: str, class_noun: str, state: State) -> str:
        return {"dog": "dog", "dog2": "brown dog", "vase": "vase"}[concept]


def test_what_a_method_cannot_ready_is_left_out(ran: Path, miniature: Backbone) -> None:
    record = read(ran)
    config, _, _ = load.recorded_config(record, ran)
    sequence = scoring.sequence_of(config, record.facts, ran)
    batches = {c.name: cm.noised(miniature, images.rendered(c.name)[:2], 1) for c in sequence.concepts}
    asked = cm.ClassifierRun(ran, config, Halting(), miniature, sequence.concepts, batches, 1)
    with collected() as said:
        made = cm.classify_row(asked, 3, Reporter("", 1))
    assert made.candidates == ("dog", "dog2") and made.counts.sum() == 4
    assert said == ["task 3, vase: not defined (no vases)"]
    matrix = cm.write_tables(RunFolder(ran), {3: made}, ["dog", "vase", "dog2"])
    assert np.isnan(matrix.loc[3]).tolist() == [False, True, False]


# Going on


@pytest.mark.slow
def test_rows_that_are_there_stay(
    ran: Path, classified: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted.clear()
    first = cm.classify(ran, [0, 2], device="cpu", draws=1)
    assert list(first.matrix.index) == [0, 2] and sum(counted) == first.spent[0] == 5 * (2 * 3 + 2 * 2)

    real = cm.classify_row

    def killed(asked: cm.ClassifierRun, t: int, reporter: object) -> cm.Row:
        if t == 3:
            raise KeyboardInterrupt
        return real(asked, t, reporter)

    counted.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cm, "classify_row", killed)
        cm.classify(ran, device="cpu", draws=1)
    assert sum(counted) == 5  # of row 1, which is there now
    counted.clear()
    last = cm.classify(ran, device="cpu", draws=1)
    assert sum(counted) == last.spent[0] == 45
    assert contents(ran / "classifier").keys() == {"matrix.csv", "confusion.csv", "classifier.json"}
    assert contents(ran / "classifier") == contents(classified / "classifier")

    before = contents(ran)
    monkeypatch.setattr(loading, "load", None)  # which is not even loaded
    again = cm.classify(ran, device="cpu", draws=1)
    assert again.spent == (0, last.spent[1]) and contents(ran) == before
    pd.testing.assert_frame_equal(again.matrix, last.matrix, atol=1e-6)


def test_rows_of_other_settings_or_states_are_made_again(ready: Path, alike: Callable[[str], Path]) -> None:
    other = cm.classify(ready, [0, 1], device="cpu", draws=2)
    assert list(other.matrix.index) == [0, 1] and other.spent == (70, 70)  # none of one draw is left among them
    source = alike("isolated") / "task-02"
    for name in ("state.json", "state.safetensors"):
        shutil.copy(source / name, ready / "task-01" / name)
    with pytest.raises(UserError, match="does not list"):  # another state of task 1 is looked at
        cm.classify(ready, [1], device="cpu", draws=2)
    assert cm.classify(ready, [0], device="cpu", draws=2).spent[0] == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "confusion.csv").write_text("row,concept,nearest,count\n0,dog,do"),
        lambda f: (f / "confusion.csv").write_text("row,concept,nearest,count\n1,dog,vase,5\n"),
        lambda f: (f / "confusion.csv").unlink(),
        lambda f: (f / "classifier.json").write_text("{"),
        lambda f: (f / "classifier.json").write_text('{"rows": {"1": [3]}}'),
        lambda f: change(f, lambda told: told["rows"].update({"1": {"candidates": [[]], "state": 3}})),
        lambda f: change(f, lambda told: told["rows"]["1"].update(state="0" * 64)),
        lambda f: change(f, lambda told: told.update(rows=None)),
    ],
)
def test_what_is_damaged_is_made_again(ran: Path, spoil: Callable[[Path], object]) -> None:
    done = cm.classify(ran, [1], device="cpu", draws=1)
    before = contents(done.folder)
    spoil(done.folder)
    assert cm.classify(ran, [1], device="cpu", draws=1).spent[0] == 5
    assert contents(done.folder) == before


def change(folder: Path, how: Callable[[dict], object]) -> None:
    told = read_json(folder / "classifier.json")
    how(told)
    write_json(folder / "classifier.json", told)


def test_rows_without_a_state_are_left_out(ran: Path, call: Callable) -> None:
    cm.classify(ran, [2], device="cpu", draws=1)
    for t in (1, 2):
        (ran / f"task-0{t}" / "dropped").touch()
        (ran / f"task-0{t}" / "state.safetensors").unlink()
    done = cm.classify(ran, device="cpu", draws=1)
    assert done.left_out == [1] and list(done.matrix.index) == [0, 2, 3]  # row 2 was made while it could be
    assert np.isnan(cm.classifier_figures(done.matrix)["plasticity"]) and not np.isnan(
        cm.classifier_figures(done.matrix)["final_average"]
    )
    code, out, _ = call("classify", ran, "--draws", 1, "--device", "cpu")
    assert code == 0 and "left out: the state of row 1 is not on disk" in out
    code, _, said = call("classify", ran, "--rows", "1,2", "--draws", 2, "--device", "cpu")
    assert code == 2 and len(said.splitlines()) == 1
    assert "the states of rows 1, 2 are not on disk" in said and "--rows: 0, 3" in said


# The command


def test_the_command_prints_matrix_and_figures(ready: Path, call: Callable) -> None:
    code, out, said = call("classify", ready, "--draws", 1, "--device", "cpu")
    assert code == 0 and said == ""
    matrix = pd.read_csv(ready / "classifier" / "matrix.csv", index_col="row")
    lines = {line.split("  ")[0].strip(): line.split() for line in out.splitlines()}
    for t, name in enumerate(("untouched", "task 1", "task 2", "task 3")):
        shown = [("-" if np.isnan(v) else f"{v:.3f}") for v in matrix.loc[t]]
        assert lines[name][-3:] == shown
    assert lines["final average"][-1] == f"{matrix.loc[3].mean():.3f}"
    assert lines["plasticity"][-1] == f"{np.mean([matrix.loc[t + 1].iloc[t] for t in range(3)]):.3f}"
    assert {"forgetting", "backward transfer"} <= lines.keys()
    assert "UNet evaluations: 0 now, 100 in all" in out and out.splitlines()[-1] == str(ready / "classifier")
    code, out, _ = call("classify", ready, "--rows", "1", "--draws", 2, "--device", "cpu")
    assert code == 0 and "UNet evaluations: 10 now, 10 in all" in out and "forgetting  " in out and "task 2" not in out


def test_what_is_not_as_it_was_is_refused(ran: Path, call: Callable, tmp_path: Path) -> None:
    record = read_json(ran / "run.json")

    def refused(*words: object, **facts: object) -> str:
        write_json(ran / "run.json", record | {"facts": record["facts"] | facts})
        code, out, said = call("classify", ran, "--device", "cpu", *words)
        assert code == 2 and out == "" and len(said.splitlines()) == 1 and "Traceback" not in said
        return said

    assert "the pictures of vase are not those" in refused(images=record["facts"]["images"] | {"vase": "0" * 64})
    assert "has changed since the run" in refused(sequence="0" * 64)
    assert "other weights" in refused(backbone="0" * 64)
    assert "does not say the training pictures' hashes" in refused(images=None)
    assert "there is no row 7; the sequence has 3 tasks" in refused("--rows", "0,7")
    assert "must be whole numbers" in refused("--rows", "a")
    assert "--draws" in refused("--draws", 0)
    assert "device 'cup'" in refused("--device", "cup")
    assert not (ran / "classifier").exists()
    (ran / "task-03" / "state.safetensors").write_bytes(b"x")
    assert "is damaged" in refused("--rows", 3)
    (tmp_path / "mine.py").write_text("raise SystemExit(9)")
    write_json(ran / "run.json", record | {"config": record["config"] | {"method": str(tmp_path / "mine.py")}})
    code, _, said = call("classify", ran)
    assert code == 2 and "--trust-remote-code" in said
    assert call("classify", tmp_path / "gone")[0] == 2


# The report


def test_the_report_shows_it(ready: Path) -> None:
    file = ready / "classifier" / "matrix.csv"
    matrix = pd.read_csv(file, index_col="row").drop(index=1)
    matrix.to_csv(file)
    text = page.page([report_data.read_run(ready)])
    beyond = text[text.index('id="beyond"') : text.index("</section>", text.index('id="beyond"'))]
    part = beyond[beyond.index("Share of real pictures assigned") :]
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', part, re.DOTALL)
    found = {name: re.findall(r"<td[^>]*>([^<]*)</td>", cells) for name, cells in rows}
    means = {t: matrix.loc[t].mean() for t in (0, 2, 3)}
    expected = {
        name: [("" if t and np.isnan(v) else f"{v:.3f}") for v in matrix.loc[t]] + [f"{means[t]:.3f}", chance]
        for t, name, chance in ((0, "untouched", "0.333"), (2, "task 2", "0.500"), (3, "task 3", "0.333"))
    }
    assert found == expected
    assert (
        "Chance is 1 / (number of candidate concepts)" in part
        and "not evaluated" not in part
        and '<a href="#beyond">' in text
    )


@pytest.mark.slow
def test_the_report_shows_one_a_run(ready: Path, alike: Callable[[str], Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(alike("isolated"), tmp_path / "other"))
    runs = [report_data.read_run(folder) for folder in (ready, other)]
    report_data.label_runs(runs)
    assert page.page(runs).count("<h3>Diffusion classifier:") == 1
    cm.classify(other, [1], device="cpu", draws=1)
    runs = [report_data.read_run(folder) for folder in (ready, other)]
    report_data.label_runs(runs)
    heads = re.findall(r"<h3>Diffusion classifier: ([^<]*)</h3>", page.page(runs))
    assert heads == [run.label for run in runs] and len(set(heads)) == 2
    *_, plotted = page.write([ready], tmp_path / "report.html", with_plots=True)
    assert {f"matrix-{name}.svg" for name in ("dino", "classifier")} <= {f.name for f in plotted.iterdir()}


DAMAGED = (
    b"",
    b"\xff\xfe\0",
    b"no table\n",
    b"row,dog,vase,dog2\n",
    b"row,dog,vase,dog2\n0,1,1,0.5",
    b"row,dog,vase\n0,1,1\n",
    b"row,dog,vase,dog2\n0,1,1\n",
    b"row,dog,vase,dog2\n0,1,1,2\n",
    b"row,dog,vase,dog2\n0,1,1,inf\n",
    b"row,dog,vase,dog2\n4,1,1,1\n",
    b"row,dog,vase,dog2\n-1,1,1,1\n",
    b"row,dog,vase,dog2\n1,1,,\n1,1,,\n",
    b"row,dog,vase,dog2\nx,1,1,1\n",
    b"row,dog,vase,dog2\n" + b"9" * 400 + b",1,1,1\n",
    b'row,dog,vase,dog2\n"0,1,1,1\n',
    b"row,<script>,vase,dog2\n0,1,1,1\n",
)


def test_a_damaged_matrix_is_a_note(tmp_path: Path) -> None:
    folder, said = make_run(tmp_path / "run", ["dog", "vase", "dog2"]), "classifier/matrix.csv is damaged and left out."
    for data in DAMAGED:
        write_atomically(folder / "classifier" / "matrix.csv", data)
        shown = report_data.read_run(folder)
        assert shown.classifier is None and said in shown.notes, data
    assert said in page.page([shown])
    write_atomically(folder / "classifier" / "matrix.csv", b"row,dog,vase,dog2\n3,1,,0.25\n0,0.5,1,0.5\n")
    shown = report_data.read_run(folder)
    assert (
        said not in shown.notes and list(shown.classifier.index) == [0, 3] and shown.classifier.loc[3, "dog2"] == 0.25
    )


@given(st.binary(max_size=60), st.integers(0, 60))
def test_a_matrix_of_anybody_is_read_or_a_note(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "classifier").mkdir()
    good = b"row,dog,vase\n0,0.5,1\n1,1,\n2,0.25,0\n"
    (folder / "classifier" / "matrix.csv").write_bytes(good[:at] + junk + good[at:])
    shown = report_data.from_record(parsed(record(["dog", "vase"])), folder)
    report_data.add_classifier(shown)
    if shown.classifier is None:
        assert shown.notes == ["classifier/matrix.csv is damaged and left out."]
    else:
        values = shown.classifier.to_numpy()
        assert list(csv.reader([good.decode().splitlines()[0]]))[0][1:] == list(shown.classifier.columns)
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all() and set(shown.classifier.index) <= {0, 1, 2}
