"""Pictures and states are written beside the computation: the bytes are the same, no error is lost, no row is recorded early."""

import hashlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.cli.main import main
from cpbench.errors import DamagedState
from cpbench.files import read_json, write_atomically
from cpbench.judges.embeddings import Embeddings, RowEmbeddings
from cpbench.judges.judge import Preprocessing
from cpbench.judges.select import load_judges
from cpbench.method import State
from cpbench.running.cells import Cell
from cpbench.running.judging import score_cell
from cpbench.running.rows import write_picture
from cpbench.running.writing import Writer

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def pictures(n: int, side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


# The writer


def test_pictures_are_written_as_without_threads(tmp_path: Path) -> None:
    with Writer(CPU) as writer:
        hashes = [writer.submit(write_picture, tmp_path / f"{k}.png", p) for k, p in enumerate(pictures(80, 9))]
    for k, picture in enumerate(pictures(80, 9)):
        expected = io.BytesIO()
        Image.fromarray(picture).save(expected, format="PNG")
        assert (tmp_path / f"{k}.png").read_bytes() == expected.getvalue()
        assert hashes[k].result() == hashlib.sha256(expected.getvalue()).hexdigest()


def test_what_is_submitted_may_wait_for_what_was_submitted_before() -> None:
    with Writer(CPU) as writer:
        first = [writer.submit(lambda k=k: k) for k in range(30)]
        second = [writer.submit(lambda future=future: future.result() + 1) for future in first]
        writer.wait()
        assert [future.result() for future in second] == list(range(1, 31))


def test_an_error_is_raised_where_the_files_are_waited_for_and_the_rest_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    blocked = threading.Event()
    with pytest.raises(IsADirectoryError) as raised, Writer(CPU) as writer:
        writer.submit(blocked.wait)
        writer.submit(write_atomically, tmp_path / "taken", b"x")
        for k in range(30):
            writer.submit(write_atomically, tmp_path / str(k), b"x")
        blocked.set()
        writer.wait()
    assert raised.value.filename == str(tmp_path / "taken")
    assert len(list(tmp_path.iterdir())) < 31 and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_a_stop_what_was_submitted_is_written_all_the_same(tmp_path: Path, error: type[BaseException]) -> None:
    blocked = threading.Event()
    with pytest.raises(error), Writer(CPU) as writer:
        writer.submit(blocked.wait)
        for k in range(10):
            writer.submit(write_atomically, tmp_path / str(k), b"x")
        blocked.set()
        raise error
    assert len(list(tmp_path.iterdir())) == 10


# A run


def test_a_row_is_recorded_only_when_its_pictures_and_its_state_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    content = {
        "name": "one",
        "version": 1,
        "images": {"drawn": True},
        "concepts": [{"name": "dog", "class_noun": "dog", "kind": "live"}],
        "evaluation": {"live": ["a {} in the snow"], "pictures_per_prompt": 2, "num_inference_steps": 1},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(content))
    words = ["run", "--method", "seqlora", "--sequence", tmp_path / "one.yaml", "--output", tmp_path / "out"]
    words += ["--set", "steps=1", "--set", "batch_size=1", "--set", "rank=1", "--no-overlap"]
    monkeypatch.setattr(sys, "argv", ["cpbench", *map(str, words)])

    def run() -> tuple[int, str]:
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    def folder() -> Path:
        return next((tmp_path / "out").glob("one/miniature/seqlora/*/order0-seed0"))

    monkeypatch.setattr("cpbench.running.runner.prepare_folder", planting := Planting("task-00/pictures/dog/00-1.png"))
    code, said = run()
    assert code != 0 and said.count("\n") == 1 and "00-1.png" in said
    assert not (folder() / "task-00" / "row.json").exists()
    planting.taken.rmdir()

    planting.name = "task-01/state.safetensors"
    code, said = run()
    assert code != 0 and said.count("\n") == 1 and "state.safetensors" in said
    assert (folder() / "task-00" / "row.json").exists() and not (folder() / "task-01" / "row.json").exists()
    assert not (folder() / "task-01" / "state.json").exists()
    planting.taken.rmdir()

    planting.name = None
    assert run() == (0, "")
    row = read_json(folder() / "task-01" / "row.json")
    assert row["state"] == State.checksum(folder() / "task-01")
    for name, digest in row["pictures"].items():
        assert hashlib.sha256((folder() / "task-01" / name).read_bytes()).hexdigest() == digest


class Planting:
    """`prepare_folder`, which also puts a folder where the run would write a file."""

    def __init__(self, name: str | None):
        self.name, self.taken = name, Path()

    def __call__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.name and folder.name.startswith("order"):
            self.taken = folder / self.name
            self.taken.mkdir(parents=True)


# States


def test_a_state_is_read_from_the_bytes_that_are_written(tmp_path: Path) -> None:
    tensors = {"token/b": torch.randn(5), "adapter/a": torch.randn(3, 2).bfloat16(), "mask/c": torch.arange(4)}
    state = State(tensors, {"concepts": ["dog"], "norms": {"dog": [1.5]}})
    serialized = state.serialized({"task": 1})
    early = serialized.state(tmp_path)
    assert not list(tmp_path.iterdir())
    assert serialized.write(tmp_path) == hashlib.sha256((tmp_path / "state.safetensors").read_bytes()).hexdigest()
    late = State.load(tmp_path, {"task": 1})
    assert list(early.tensors) == list(late.tensors) == sorted(tensors) and early.facts == late.facts == state.facts
    for name, tensor in tensors.items():
        assert torch.equal(early.tensors[name], tensor) and early.tensors[name].dtype == late.tensors[name].dtype
    early.facts["concepts"].append("cat")
    assert serialized.state(tmp_path).facts == state.facts


def test_a_state_with_nan_is_refused_from_its_bytes_too(tmp_path: Path) -> None:
    serialized = State({"adapter/a": torch.tensor([1.0, float("nan")])}, {}).serialized()
    with pytest.raises(DamagedState, match="adapter/a holds no numbers"):
        serialized.state(tmp_path)


# Pictures and judges


def test_pictures_are_rounded_on_the_device_as_numpy_rounds(tiny: Backbone) -> None:
    latents = torch.randn(3, *tiny.latent_shape, generator=torch.Generator().manual_seed(0)) * 2
    got, is_finite = tiny.decode_latents(latents)
    with torch.no_grad():
        decoded = tiny.vae.decode(tiny.family.denormalised(latents)).sample
    expected = np.rint((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    assert got.dtype == torch.uint8 and bool(is_finite)
    np.testing.assert_array_equal(got.numpy(), expected)
    latents[1] = float("nan")
    assert not tiny.decode_latents(latents)[1]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(80, 80), (64, 64), (50, 97)])
def test_threads_prepare_the_same_pixels_for_a_judge(threads: int, shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing(64, 56, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    given = np.random.default_rng(1).integers(0, 256, (5, *shape, 3), dtype=np.uint8)
    height, width = (int(side * 64 / min(shape)) for side in shape)
    expected = []
    for picture in given:
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        y, x = round((height - 56) / 2), round((width - 56) / 2)
        expected.append(resized[y : y + 56, x : x + 56])
    cropped = preprocessing.cropped(given, threads)
    np.testing.assert_array_equal(cropped, expected)
    unit = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float() / 255
    normalised = (unit - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    assert torch.equal(preprocessing(given), normalised)


def test_references_are_embedded_once_whatever_the_number_of_cells() -> None:
    judges, seen = load_judges("miniature"), {"clip": 0, "dino": 0}
    for name, judge in judges.items():
        encode = judge.preprocessing.cropped

        def counted(images: list, threads: int = 1, name: str = name, encode: object = encode) -> np.ndarray:
            seen[name] += len(images)
            return encode(images, threads)

        object.__setattr__(judge.preprocessing, "cropped", counted)
    concept = type("Concept", (), {"name": "dog", "class_noun": "dog"})()
    cell = Cell("cell", "dog", (concept,), ("dog",), ("a {}",), 2)
    real = {"dog": pictures(5, seed=9)}
    for t in range(4):
        row = {name: RowEmbeddings(judge) for name, judge in judges.items()}
        score_cell(t, cell, "cell", pictures(2, seed=t), real, row)
    assert seen == {"clip": 5 + 4 * 2, "dino": 5 + 4 * 2}


def test_what_rows_noted_is_not_embedded_again(tmp_path: Path) -> None:
    judge = load_judges("miniature")["dino"]
    noted = {}
    for t in (0, 1):
        row = RowEmbeddings(judge)
        noted[t] = row.images(pictures(3, seed=t))
        assert row.images(given := pictures(3, seed=t)) is row.images(given)
        row.save(tmp_path, t)
    judge.images = pytest.fail
    for _ in range(2):  # from the rows' files, then from the one file that they became
        known = Embeddings(tmp_path, judge)
        for t in (0, 1):
            np.testing.assert_array_equal(known.images(pictures(3, seed=t)), noted[t])
        known.save()
        assert [file.name for file in tmp_path.iterdir()] == [known.file.name]


# The first line


def test_a_run_says_its_first_line_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('torch is imported')")
    words = ["run", "--method", "seqlora", "--sequence", "quick3", "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "cpbench", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "torch is imported" in done.stderr
    assert done.stdout == "seqlora on quick3: loading torch and the models\n"
