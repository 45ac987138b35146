"""A run from end to end: what is in its folder, what the numbers are, and that nothing that happens to it moves them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import cpbench
from cpbench.backbones.backbone import MINIATURE
from cpbench.cli import main
from cpbench.concepts import held_out, images, sequences
from cpbench.config import resolve
from cpbench.errors import UserError
from cpbench.judges.select import load_judges
from cpbench.records import machine
from cpbench.registry import load_method
from cpbench.running import judging, runner
from cpbench.running.prepare import prepare
from cpbench.running.progress import Reporter
from cpbench.running.runner import execute
from cpbench.version import SCORES

ROOT = Path(__file__).parents[1]
CONCEPTS = ["dog", "backpack"]
PROMPT = "a {} in the snow"
STEPS, BATCH, RANK, SAMPLER_STEPS = 3, 2, 4, 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA: dict[str, Any] = {"rank": RANK, "steps": STEPS, "batch_size": BATCH, "target_modules": list(TARGETS)}
LORA |= {"learning_rate": 1e-3, "token_learning_rate": 1e-3}  # every option, so that no preset decides
RARE: dict[str, Any] = {"adapter": "lora", "token_steps": 2, "steps": 3, "batch_size": 2, "rank": 1}
RARE |= {"target_modules": ["to_v"], "token_learning_rate": 1e-3, "learning_rate": 1e-3, "lora_learning_rate": 1e-3}
METRICS = ("clip_i", "clip_t", "dino")
ROUNDED = 1e-6  # scores are written with six digits

# seqlora, except that task 2 can be made to stop half way, by the environment
STOPPING = """
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from cpbench.baselines.seqlora import SequentialLora


class Stopping(SequentialLora):
    def learn(self, backbone, task, state):
        def log(step, **figures):
            task.log(step, **figures)
            how = os.environ.get("STOP_TASK_2", "")
            if task.number == 2 and step == 1 and how and task.images.any():  # not while it is counted
                if how == "interrupt":
                    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin with it ignored
                    signal.raise_signal(signal.SIGINT)
                if how == "fail":
                    raise ValueError("out of luck")
                Path(how).touch()
                time.sleep(300)  # to be killed in

        return super().learn(backbone, replace(task, log=log), state)
"""


def run_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of the files that a run must come to, however it comes to them."""
    names = patterns or ("scores.csv", "matrix-*.csv", "task-*/scores.csv", "task-*/state.*", "task-*/curve.csv")
    found = {str(f.relative_to(folder)): unbound(f) for n in names for f in sorted(folder.glob(n))}
    return {name: data for name, data in found.items() if "damaged" not in name}


def unbound(file: Path) -> bytes:
    """A file's bytes; of a state's record without which run it is of, which another method file makes another one."""
    if file.name != "state.json":
        return file.read_bytes()
    record = json.loads(file.read_text())
    return json.dumps({k: v for k, v in record.items() if k not in ("bound", "checksum")}, sort_keys=True).encode()


def times(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file but the lock."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != ".lock"]
    return {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence of two drawn concepts with one prompt each."""
    path = tmp_path_factory.mktemp("sequence") / "small.yaml"
    spec = {
        "name": "small",
        "version": 1,
        "images": {"drawn": True},
        "concepts": [
            {"name": "dog", "class_noun": "dog", "kind": "live"},
            {"name": "backpack", "class_noun": "backpack", "kind": "object"},
        ],
        "evaluation": {
            "live": [PROMPT],
            "object": [PROMPT],
            "pictures_per_prompt": 1,
            "num_inference_steps": SAMPLER_STEPS,
        },
    }
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def base(small: Path, output: Path) -> dict[str, Any]:
    return cpbench.run(method="base", sequence=str(small), output=output)


@pytest.fixture(scope="module")
def lora(small: Path, output: Path, base: dict[str, Any]) -> dict[str, Any]:
    """seqlora in the output folder that `base` has run in."""
    return cpbench.run(method="seqlora", sequence=str(small), output=output, options=LORA)


@pytest.fixture(scope="module")
def rare(small: Path, output: Path, base: dict[str, Any]) -> tuple[dict[str, Any], Reporter]:
    """A method of two phases, in the same output folder; and what counted its progress."""
    with pytest.MonkeyPatch.context() as patch:
        reporters = counted(patch)
        run = cpbench.run(method="raretoken", sequence=str(small), output=output, options=RARE)
    (reporter,) = reporters
    return run, reporter


def counted(patch: pytest.MonkeyPatch) -> list[Reporter]:
    """The reporters that are made from now on."""
    made: list[Reporter] = []

    class Kept(Reporter):
        def __init__(self, title: str, total: int, file: Path | None = None):
            super().__init__(title, total, file)
            made.append(self)

    patch.setattr(runner, "Reporter", Kept)
    return made


# What is in the folder


def test_record_says_what_was_run(small: Path, output: Path, lora: dict[str, Any]) -> None:
    folder = lora["folder"]
    record = run_json(folder)
    assert record["status"] == "finished"
    nouns = {"dog": "dog", "backpack": "backpack"}
    prompts = dict.fromkeys(CONCEPTS, ["a {} in the snow"])
    expected = {"name": "small", "version": 1, "concepts": CONCEPTS, "class_nouns": nouns, "prompts": prompts}
    assert record["sequence"] == expected
    assert record["pictures"] == "drawn" and record["sees_earlier_data"] is False
    config = record["config"]
    assert {k: config[k] for k in ("method", "backbone", "seed", "order")} == {
        "method": "seqlora",
        "backbone": "miniature",
        "seed": 0,
        "order": 0,
    }
    assert {k: config["options"][k] for k in LORA} == LORA  # resolved: what was not given is there as well
    assert "target_modules" in config["options"]
    assert folder == output / "small" / "miniature" / "seqlora" / record["hash"] / "order0-seed0"
    assert record["made_on"] == [machine.facts("cpu") | {"learning": [1, 2], "row": [0, 1, 2]}]


def test_hash_covers_the_bytes_of_all_that_moves_a_score(small: Path, lora: dict[str, Any]) -> None:
    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    record = run_json(lora["folder"])
    facts = record["facts"]
    files = {
        "clip": MINIATURE / "judges" / "clip" / "open_clip_model.safetensors",
        "dino": MINIATURE / "judges" / "dino" / "model.safetensors",
    }
    assert {n: it["weights_sha256"] for n, it in facts["judges"].items()} == {n: sha256(f) for n, f in files.items()}
    for name, counted in facts["judges"].items():
        judge = record["judges"][name]
        assert counted == {k: judge[k] for k in judge.keys() - {"library", "model", "preprocessing_from"}}
        assert counted["preprocessing"] and counted["architecture"] and ("tokenizer" in counted) == (name == "clip")
    assert (facts["scores"], facts["versions"]) == (SCORES, {"seqlora": load_method("seqlora").version})
    assert "source" not in facts
    assert facts["sequence"] == sequences.content_hash(sequences.load(small))
    assert facts["images"] == {c: hashlib.sha256(images.rendered(c).tobytes()).hexdigest() for c in CONCEPTS}
    held = {c: held_out.further_drawings(c, 8) for c in CONCEPTS}
    assert facts["references"] == {c: hashlib.sha256(p.tobytes()).hexdigest() for c, p in held.items()}
    assert facts["sampler"] == {"num_inference_steps": SAMPLER_STEPS, "guidance_scale": 4.0, "batch_size": 16}
    assert facts["dtype"] == "torch.float32" and len(facts["backbone"]) == 64
    canonical = json.dumps(facts, sort_keys=True).encode()
    assert record["hash"] == hashlib.sha256(canonical).hexdigest()[:8]


def test_files_of_each_task(lora: dict[str, Any]) -> None:
    folder = lora["folder"]
    for t, seen in enumerate([CONCEPTS, ["dog"], CONCEPTS]):
        task = folder / f"task-{t:02d}"
        assert (task / "scores.csv").is_file() and (task / "row.json").is_file()
        assert (task / "cost.json").is_file() == (t > 0)
        assert sorted(str(p.relative_to(task / "pictures")) for p in task.glob("pictures/*/*")) == sorted(
            [f"{c}/00-0.png" for c in seen] + [f"{c}/real.png" for c in seen if t == 0]
        )
        assert (task / "state.safetensors").is_file() == (task / "state.json").is_file() == (t > 0)
    for t in (1, 2):
        curve = pd.read_csv(folder / f"task-{t:02d}" / "curve.csv")
        assert list(curve.columns[:2]) == ["phase", "step"] and set(curve["phase"]) == {"train"}
        assert list(curve["step"]) == list(range(STEPS))
        assert np.isfinite(curve["loss"]).all() and (curve["gradient_norm"] > 0).all()
    for concept in CONCEPTS:  # what the grid shows beside the drawings
        real = np.asarray(Image.open(folder / "task-00" / "pictures" / concept / "real.png"))
        np.testing.assert_array_equal(real, images.rendered(concept)[0])
    assert Image.open(folder / "grid.png").size[0] > 0
    assert not list(folder.rglob("*.tmp")) and not (folder / ".holder.json").exists()


def test_costs_are_those_counted_by_hand(base: dict[str, Any], lora: dict[str, Any]) -> None:
    # a picture: every sampler step sees it with and without the prompt
    picture = SAMPLER_STEPS * 2
    with safe_open(MINIATURE / "unet" / "diffusion_pytorch_model.safetensors", "np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    ends = tuple(f".{name}.weight" for name in TARGETS)
    adapted = [shape for name, shape in shapes.items() if name.endswith(ends)]
    adapter = sum(RANK * (rows + columns) for rows, columns in adapted)  # B (rows, r) and A (r, columns)
    token = json.loads((MINIATURE / "text_encoder" / "config.json").read_text())["hidden_size"]
    unet_bytes = 4 * sum(int(np.prod(shape)) for shape in shapes.values())

    costs = run_json(lora["folder"])["costs"]
    assert sorted(costs) == ["0", "1", "2"]
    for t in (1, 2):
        cost = costs[str(t)]
        assert cost["learning_evaluations"] == STEPS * BATCH
        assert cost["generation_evaluations"] == t * picture
        assert (cost["pictures_generated"], cost["pictures_reused"]) == (t, 0)
        assert cost["trainable_parameters"] == adapter + token
        assert cost["state_parameters"] == adapter + t * token
        assert cost["state_bytes"] == {"adapter": 4 * adapter, "token": 4 * t * token}
        assert all(cost[f"{stage}_seconds"] > 0 for stage in ("learning", "generation", "judging"))
        assert unet_bytes < cost["peak_memory_bytes"] < psutil.virtual_memory().total
    first = run_json(base["folder"])["costs"]
    assert first["0"]["generation_evaluations"] == len(CONCEPTS) * picture
    assert first["0"]["pictures_generated"] == len(CONCEPTS)
    assert first["1"]["trainable_parameters"] == first["1"]["learning_evaluations"] == 0
    assert first["1"]["state_bytes"] == {}


def test_row_0_is_drawn_once_for_all_methods_and_base_never_draws_again(
    base: dict[str, Any], lora: dict[str, Any]
) -> None:
    first, second = (run_json(r["folder"])["costs"] for r in (base, lora))
    assert (second["0"]["pictures_generated"], second["0"]["pictures_reused"]) == (0, 2)
    assert second["0"]["generation_evaluations"] == 0
    assert [first[t]["pictures_generated"] for t in ("1", "2")] == [0, 0]
    assert [first[t]["generation_evaluations"] for t in ("1", "2")] == [0, 0]
    assert contents(base["folder"], "task-00/pictures/*/*") == contents(lora["folder"], "task-00/pictures/*/*")
    for metric in METRICS:
        table = base["matrices"][metric]
        assert (table.loc[2] == table.loc[0]).all() and table.loc[1, "dog"] == table.loc[0, "dog"]


# What is logged and shown while it learns


def test_the_curve_has_every_phase_of_a_task(rare: tuple[dict[str, Any], Reporter]) -> None:
    folder = rare[0]["folder"]
    for t in (1, 2):
        curve = pd.read_csv(folder / f"task-{t:02d}" / "curve.csv")
        assert list(zip(curve["phase"], curve["step"], strict=True)) == [
            *(("stage 1", step) for step in range(2)),
            *(("stage 2", step) for step in range(3)),
        ]
        assert np.isfinite(curve["loss"]).all() and (curve["gradient_norm"] > 0).all()
        np.testing.assert_allclose(curve["denoising"], curve["loss"], rtol=1e-5)
    costs = run_json(folder)["costs"]
    assert [costs[t]["learning_evaluations"] for t in ("1", "2")] == [(2 + 3) * 2] * 2


LOGGING = """
from cpbench.baselines.base import Base


class Logging(Base):
    def learn(self, backbone, task, state):
        task.log(0, loss=1.5)
        task.log(0, phase="more", other=0.25)
        return super().learn(backbone, task, state)
"""


def test_what_is_logged_without_a_phase_is_training(small: Path, output: Path, tmp_path: Path, base: dict) -> None:
    (tmp_path / "logging_method.py").write_text(LOGGING)
    run = cpbench.run(method=str(tmp_path / "logging_method.py"), sequence=str(small), output=output)
    curve = (run["folder"] / "task-01" / "curve.csv").read_text()
    assert curve.splitlines() == ["phase,step,loss,other", "train,0,1.5,", "more,0,,0.25"]


def test_progress_comes_to_what_was_planned(
    small: Path, tmp_path: Path, rare: tuple[dict[str, Any], Reporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of row 0 (two), 1 (one) and 2 (two); and three for each evaluation of two tasks of two phases."""
    by_hand = (2 + 1 + 2) * SAMPLER_STEPS * 2 + 2 * 3 * (2 + 3) * 2
    run, reporter = rare
    assert reporter.total == by_hand and reporter.done == by_hand
    # and where all of it is there already
    folder = tmp_path.joinpath(*run["folder"].parts[-5:])
    shutil.copytree(run["folder"], folder)
    (folder / "run.json").write_text(json.dumps(run_json(folder) | {"status": "stopped"}))
    reporters = counted(monkeypatch)
    cpbench.run(method="raretoken", sequence=str(small), output=tmp_path, options=RARE)
    assert [(r.total, r.done) for r in reporters] == [(by_hand, by_hand)]
    assert contents(folder) == contents(run["folder"])


# What the numbers are


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def test_matrix_cells_are_the_means_of_the_saved_pictures_scores(lora: dict[str, Any]) -> None:
    folder, theirs = lora["folder"], load_judges("miniature")
    for metric in METRICS:
        saved = pd.read_csv(folder / f"matrix-{metric}.csv", index_col=0)
        assert list(saved.index) == [0, 1, 2] and list(saved.columns) == CONCEPTS
        expected = np.full((3, 2), np.nan)
        for t, seen in enumerate([CONCEPTS, ["dog"], CONCEPTS]):
            for concept in seen:
                values = []
                for file in sorted((folder / f"task-{t:02d}" / "pictures" / concept).glob("[0-9]*.png")):
                    drawn = np.asarray(Image.open(file))[None]
                    judge = theirs["dino" if metric == "dino" else "clip"]
                    if metric == "clip_t":
                        others = theirs["clip"].texts([PROMPT.format(concept)])  # the name is the class noun here
                    else:
                        others = judge.images(held_out.further_drawings(concept, 8))
                    values.append(np.mean([cosine(judge.images(drawn)[0], o) for o in others]))
                expected[t, CONCEPTS.index(concept)] = np.mean(values)
        np.testing.assert_allclose(saved.to_numpy(), expected, atol=2 * ROUNDED)
        np.testing.assert_array_equal(np.isnan(saved.to_numpy()), [[False, False], [False, True], [False, False]])
        np.testing.assert_allclose(lora["matrices"][metric].to_numpy(), expected, atol=2 * ROUNDED)


def test_reference_rows_are_the_real_pictures_and_the_worlds_own_drawings(lora: dict[str, Any]) -> None:
    theirs, scores = load_judges("miniature"), lora["scores"]
    kinds = scores.groupby("kind")["metric"].agg(set).to_dict()
    assert kinds == {"cell": set(METRICS), "oracle": set(METRICS), "real": {"clip_i", "dino"}}

    def value(kind: str, concept: str, metric: str) -> float:
        (found,) = scores.query("kind == @kind and concept == @concept and metric == @metric")["value"]
        return found

    for concept in CONCEPTS:
        oracle = images.oracle(concept, PROMPT, seed=0, index=0)[None]
        text = theirs["clip"].texts([PROMPT.format(concept)])[0]
        assert abs(value("oracle", concept, "clip_t") - cosine(theirs["clip"].images(oracle)[0], text)) < 2 * ROUNDED
        for metric, judge in (("clip_i", "clip"), ("dino", "dino")):
            trained = theirs[judge].images(images.rendered(concept))
            real = theirs[judge].images(held_out.further_drawings(concept, 8))
            assert (
                abs(value("real", concept, metric) - np.mean([cosine(a, b) for a in trained for b in real]))
                < 2 * ROUNDED
            )
            by_hand = np.mean([cosine(theirs[judge].images(oracle)[0], r) for r in real])
            assert abs(value("oracle", concept, metric) - by_hand) < 2 * ROUNDED


def test_states_are_what_the_method_learned(lora: dict[str, Any]) -> None:
    first, second = (load_file(lora["folder"] / f"task-0{t}" / "state.safetensors") for t in (1, 2))
    assert set(second) - set(first) == {"token/backpack"}
    np.testing.assert_array_equal(first["token/dog"], second["token/dog"])  # seqlora leaves earlier words alone
    assert any((first[k] != second[k]).any() for k in first if k.startswith("adapter/"))


# Again, elsewhere, in another order


def test_finished_run_is_left_as_it_is(
    small: Path, output: Path, lora: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(lora["folder"])
    again = cpbench.run(method="seqlora", sequence=str(small), output=output, options=LORA)
    assert "finished already" in (said := capsys.readouterr().out) and str(lora["folder"]) in said
    assert times(lora["folder"]) == before
    pd.testing.assert_frame_equal(again["scores"], lora["scores"])


def test_same_settings_elsewhere_give_the_same_bytes(small: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    options = {k: v for k, v in LORA.items() if k not in ("steps", "rank")}
    settings = (f"steps={STEPS}", f"rank={RANK}")
    given = {"method": "seqlora", "sequence": str(small), "output": tmp_path, "options": options}
    other = execute(*resolve(given, settings=settings)).folder
    assert other.relative_to(tmp_path) == Path(*lora["folder"].parts[-5:])
    assert contents(other) == contents(lora["folder"])
    assert len(contents(other)) == 1 + 3 + 3 + 4 + 2


def test_another_order_has_its_own_folder_and_the_same_hash(small: Path, output: Path, base: dict[str, Any]) -> None:
    other = cpbench.run(method="base", sequence=str(small), output=output, order=1)
    assert other["folder"].name == "order1-seed0" and other["folder"].parent == base["folder"].parent
    expected = [CONCEPTS[i] for i in np.random.default_rng(1).permutation(2)]
    assert run_json(other["folder"])["sequence"]["concepts"] == expected
    assert list(other["matrices"]["dino"].columns) == expected
    for concept in CONCEPTS:  # the same pictures, whatever the order
        assert other["matrices"]["dino"].loc[0, concept] == base["matrices"]["dino"].loc[0, concept]


# What may happen to a run


@pytest.fixture
def stopping(tmp_path: Path) -> Path:
    path = tmp_path / "stopping.py"
    path.write_text(STOPPING)
    return path


def test_killed_run_goes_on_and_comes_to_the_same(
    small: Path, tmp_path: Path, stopping: Path, lora: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    marker, output = tmp_path / "half way", tmp_path / "output"
    words = ["--method", stopping, "--sequence", small, "--output", output]
    words += [w for k, v in LORA.items() for w in ("--set", f"{k}={v}")]
    environment = os.environ | {"STOP_TASK_2": str(marker), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "cpbench", "run", *map(str, words)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(3000):
            if marker.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert marker.exists(), (tmp_path / "log").read_text()
        with pytest.raises(UserError) as held:  # while it is at work
            cpbench.run(method=str(stopping), sequence=str(small), output=output, options=LORA)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert f"process {process.pid} on " in str(held.value) and len(str(held.value).splitlines()) == 1

    (folder,) = (f.parent for f in output.glob("**/run.json"))
    assert run_json(folder)["status"] == "running"
    assert (folder / "task-01" / "scores.csv").exists() and not (folder / "task-02" / "state.json").exists()
    kept = {k: v for k, v in times(folder).items() if "/task-0" in k}
    capsys.readouterr()
    again = cpbench.run(method=str(stopping), sequence=str(small), output=output, options=LORA)
    assert again["folder"] == folder
    now = times(folder)
    assert len(kept) == 13 and {k: now[k] for k in kept} == kept  # tasks 0 and 1 are not done again
    assert contents(folder) == contents(lora["folder"])
    costs, whole = run_json(folder)["costs"], run_json(lora["folder"])["costs"]
    assert {t: sorted(c) for t, c in costs.items()} == {t: sorted(c) for t, c in whole.items()}
    assert costs["0"]["pictures_generated"] == 2


def test_interrupted_and_failed_runs_say_so_and_go_on(
    small: Path,
    tmp_path: Path,
    stopping: Path,
    lora: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "output"
    settings = [w for k, v in LORA.items() for w in ("--set", f"{k}={v}")]
    words = ["cpbench", "run", "--method", stopping, "--sequence", small, "--output", output, *settings]
    monkeypatch.setattr(sys, "argv", [str(w) for w in words])

    monkeypatch.setenv("STOP_TASK_2", "interrupt")
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err.strip()  # click ends the line that ^C is shown on
    assert (
        left.value.code == 130
        and len(said.splitlines()) == 1
        and "stopped by SIGINT; the same command resumes after task 1 of" in said
    )
    (folder,) = (f.parent for f in output.glob("**/run.json"))
    assert run_json(folder)["status"] == "stopped"

    monkeypatch.setenv("STOP_TASK_2", "fail")
    with pytest.raises(ValueError, match="out of luck"):
        main()
    record = run_json(folder)
    assert (record["status"], record["reason"]) == ("failed", "ValueError: out of luck")

    monkeypatch.delenv("STOP_TASK_2")
    main()
    assert run_json(folder)["status"] == "finished" and not run_json(folder)["reason"]
    assert contents(folder) == contents(lora["folder"])


def test_damaged_state_is_named_kept_and_done_again(
    small: Path, tmp_path: Path, lora: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    folder = output.joinpath(*lora["folder"].parts[-5:])
    shutil.copytree(lora["folder"], folder)
    file = folder / "task-01" / "state.safetensors"
    damaged = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(damaged)
    second = {k: v for k, v in times(folder).items() if "task-02" in k}
    cpbench.run(method="seqlora", sequence=str(small), output=output, options=LORA)
    told = "".join(capsys.readouterr().out.split())  # a console breaks long lines
    assert f"{file}:isdamaged" in told and "wererenamedto*.damaged-1,andtask1islearnedagain" in told
    assert contents(folder) == contents(lora["folder"])
    assert {k: v for k, v in times(folder).items() if "task-02" in k} == second  # task 2 was whole
    assert run_json(folder)["status"] == "finished"
    assert file.with_name("state.safetensors.damaged-1").read_bytes() == damaged


@pytest.mark.parametrize("what", ["a file is in the way", "read-only"])
def test_output_that_cannot_be_written_is_one_line(small: Path, tmp_path: Path, what: str) -> None:
    if what == "read-only":
        output = tmp_path / "shut"
        output.mkdir()
        output.chmod(0o500)
        if os.access(output, os.W_OK):
            pytest.skip("this user may write anywhere")
    else:
        (tmp_path / "file").touch()
        output = tmp_path / "file" / "output"
    with pytest.raises(UserError) as caught:
        cpbench.run(method="base", sequence=str(small), output=output)
    assert str(output) in str(caught.value) and len(str(caught.value).splitlines()) == 1


UNDEFINED = """
from cpbench.baselines.seqlora import SequentialLora
from cpbench.method import NotDefined


class Undefined(SequentialLora):
    def install(self, backbone, state, concepts):
        if "backpack" in concepts:
            raise NotDefined("backpacks are beyond it")
        super().install(backbone, state, concepts)
"""


def test_a_cell_that_is_not_defined_is_empty_and_the_run_goes_on(small: Path, tmp_path: Path) -> None:
    (tmp_path / "undefined.py").write_text(UNDEFINED)
    run = cpbench.run(method=str(tmp_path / "undefined.py"), sequence=str(small), output=tmp_path / "out", options=LORA)
    record = run_json(run["folder"])
    assert record["status"] == "finished"
    for metric in METRICS:
        table = run["matrices"][metric]
        assert np.isnan(table.loc[2, "backpack"]) and np.isfinite(table.loc[2, "dog"])
        assert record["figures"][metric]["final_average"] is None  # never dropped in silence


def test_a_learning_rate_that_blows_up_is_one_line_and_nothing_is_scored(small: Path, tmp_path: Path) -> None:
    options = LORA | {"learning_rate": 1e30, "steps": 5}
    with pytest.raises(UserError, match="learning rate"):
        cpbench.run(method="seqlora", sequence=str(small), output=tmp_path, options=options)
    (record,) = tmp_path.glob("**/run.json")
    assert json.loads(record.read_text())["status"] == "failed"
    assert not list(tmp_path.glob("**/task-01/scores.csv"))


def test_a_backbone_without_judges_needs_the_published_ones(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "copy"
    shutil.copytree(MINIATURE, folder, ignore=shutil.ignore_patterns("judges"))
    photos = yaml.safe_load(small.read_text()) | {"images": {"folder": "photos/{name}"}}
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump(photos))
    for name in CONCEPTS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(images.rendered(name)[0]).save(tmp_path / "photos" / name / "0.png")
    with pytest.raises(UserError, match="judge clip-vit-b-32: .* pass clip=FILE.safetensors"):
        words = {"sequence": str(tmp_path / "photos.yaml"), "backbone": str(folder), "output": tmp_path / "out"}
        cpbench.run(method="base", **words)


def test_a_picture_of_one_colour_fails_and_is_not_scored(small: Path, tmp_path: Path) -> None:
    from cpbench.config import resolve

    run = prepare(*resolve({"method": "base", "sequence": str(small), "output": tmp_path}))
    cell = replace(run.cells_of(0)[0], templates=("a {} in the snow",), per_prompt=2)
    pictures = np.stack([images.rendered("dog")[0], np.full((64, 64, 3), 7, np.uint8)])
    found = judging.score_cell(0, cell, "cell", pictures, run.images, run.judges)
    assert {r[4]: bool(np.isnan(r[6])) for r in found} == {0: False, 1: True} and len(found) == 6


def test_only_the_rows_that_are_wanted_are_drawn(small: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    """And what they say is what they say in a run that draws all."""
    run = cpbench.run(method="seqlora", sequence=str(small), output=tmp_path, options=LORA, rows=(2,))
    rows_drawn = sorted(set(run["scores"]["row"]))
    assert rows_drawn == [0, 2] and not (run["folder"] / "task-01" / "scores.csv").exists()
    pd.testing.assert_frame_equal(run["matrices"]["dino"].loc[[0, 2]], lora["matrices"]["dino"].loc[[0, 2]])
    record, whole = run_json(run["folder"]), run_json(lora["folder"])
    assert record["status"] == "finished" and record["hash"] != whole["hash"]
    final = ("final_average", "normalised_retention")
    assert {k: record["figures"]["dino"][k] for k in final} == {k: whole["figures"]["dino"][k] for k in final}
    assert record["figures"]["dino"]["plasticity"] is None and record["figures"]["dino"]["forgetting"] is None
    with pytest.raises(UserError, match="no row 3"):
        cpbench.run(method="seqlora", sequence=str(small), output=tmp_path, options=LORA, rows=(3,))
