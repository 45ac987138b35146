"""Many runs: what a grid comes to, that one failure stops nothing, and that engines do not move a score."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import undisturbed
import yaml

from cpbench.errors import UserError
from cpbench.files import read_json
from cpbench.running import sweep

ROOT = Path(__file__).parents[1]
BASE = {"methods": ["base"], "sequences": ["quick3"]}

FAILING = """
from cpbench.baselines.base import Base


class Failing(Base):
    def learn(self, backbone, task, state):
        raise ValueError("out of luck")
"""


@pytest.fixture
def short(tmp_path: Path) -> str:
    (tmp_path / "short.yaml").write_text(undisturbed.SEQUENCE)
    return str(tmp_path / "short.yaml")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "cpbench", "sweep", *map(str, words)]


def ask(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=540)


def scores(output: Path) -> dict[str, bytes]:
    """Scores and matrices by path; the folder's hash and all."""
    return {
        str(f.relative_to(output)): f.read_bytes()
        for pattern in ("**/scores.csv", "**/matrix-*.csv")
        for f in sorted(output.glob(pattern))
    }


# Grids


def test_a_grid_is_every_combination() -> None:
    grid = sweep.Grid(
        methods=("base", "seqlora steps=3 evaluation.batch_size=2"), sequences=("quick3",), seeds=(0, 2), orders=(0, 1)
    )
    jobs = sweep.jobs_of(grid)
    assert len(jobs) == len({j.name for j in jobs}) == 8
    assert {(j.settings["method"], j.settings["seed"], j.settings["order"]) for j in jobs} == {
        (m, s, o) for m in ("base", "seqlora") for s in (0, 2) for o in (0, 1)
    }
    assert all(j.settings["options"] == ({"steps": 3} if j.settings["method"] == "seqlora" else {}) for j in jobs)
    assert {j.settings["evaluation"].get("batch_size") for j in jobs if j.settings["method"] == "seqlora"} == {2}
    assert all("/" not in j.name and " " not in j.name for j in jobs)


def test_the_command_line_is_over_the_file_and_a_config(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({**BASE, "seeds": [3], "common": {"fit": "pad", "data": "here"}}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": "there", "options": {"steps": 7}}))
    axes = {axis: None for axis in sweep.AXES} | {"methods": ["seqlora"]}
    given = {"device": "cpu", "output": Path("out"), "vae": None}
    grid, output = sweep.grid_from(
        str(tmp_path / "g.yaml"), axes, tmp_path / "c.yaml", ("rank=2", "evaluation.batch_size=4"), given
    )
    assert (grid.methods, grid.sequences, grid.seeds) == (("seqlora",), ("quick3",), (3,)) and output == Path("out")
    assert grid.common == {
        "fit": "pad",
        "data": "there",
        "device": "cpu",
        "overlap": False,
        "options": {"steps": 7, "rank": 2},
        "evaluation": {"batch_size": 4},
    }


def test_the_built_in_grids_are_sound() -> None:
    for name in ("bench", "bench-quick"):
        grid = sweep.Grid(**sweep.read_grid(name))
        assert {"base", "isolated", "seqlora"} <= {m.split()[0] for m in grid.methods} and sweep.jobs_of(grid)


WRONG = {
    "unknown method": (["--methods", "seqlor", "--sequences", "quick3"], "did you mean 'seqlora'"),
    "unknown option": (["--methods", "seqlora stpes=3", "--sequences", "quick3"], "did you mean 'steps'"),
    "no methods": (["--sequences", "quick3"], "--methods is missing"),
    "unknown grid": (["--grid", "bensh"], "'bench'"),
    "seeds": (["--grid", "bench", "--seeds", "0,x"], "whole numbers"),
    "empty entry": (["--methods", "base,", "--sequences", "quick3"], "empty entry"),
    "address": (["--grid", "bench-quick", "--address", "auto"], "--engine ray"),
    "twice": (["--methods", "base,base", "--sequences", "quick3"], "occurs twice"),
    "setting of all": (
        ["--grid", "bench-quick", "--set", "evaluation.batch=3"],
        "sweep: evaluation: unknown key 'batch'",
    ),
    "options under a shared setting": (["--grid", "bench-quick", "--methods", "seqlora steps"], "key=value"),
    "unknown sequence": (["--methods", "base", "--sequences", "quick"], "'quick3'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_before_anything_runs(case: str, tmp_path: Path, call: Callable) -> None:
    words, hint = WRONG[case]
    code, _, said = call("sweep", *words, "--output", tmp_path / "out")
    (line,) = said.strip().splitlines()
    assert code == 2 and hint in line and not (tmp_path / "out").exists()


WRONG_GRIDS = {
    "": "must be a mapping with the keys methods, sequences, backbones, seeds, orders, common",
    "[base]": "must be a mapping",
    "3": "must be a mapping",
    "method: [base]": "unknown key 'method': did you mean 'methods'",
    "1: 2": "unknown key 1",
    "methods: seqlora": "methods: must be a list, such as [a, b], not 'seqlora'",
    'methods: [""]': "method 1: must have 1 or more characters, not",
    "methods: [base, 3]": "method 2: must be text, not 3",
    "methods: {base: 1}": "methods: must be a list",
    "methods: !!set {base, seqlora}": "not valid YAML",
    "sequences: [[quick3]]": "sequence 1: must be text",
    "backbones: [' ']": "backbone 1: must have 1 or more characters, not",
    "seeds: x": "seeds: must be a list, such as [a, b], not 'x'",
    "seeds: [x]": "seed 1: must be a whole number, not 'x'",
    "seeds: [true]": "seed 1: must be a number, not True",
    "orders: [-1]": "order 1: must be greater than or equal to 0, not -1",
    "common: 3": "common: must be a mapping, such as {key: value}, not 3",
    "common: {3: 4}": "common.3: must be text",
    "common: {output: 5}": "common: output: must be a path, not 5",
    "common: {options: 3}": "common: options: must be a mapping",
    "common: {evaluation: [1]}": "common: evaluation: must be a mapping",
    "common: {evaluation: {batch: 1}}": "common: evaluation: unknown key 'batch': did you mean 'batch_size'",
    "common: {devise: cpu}": "common: unknown key 'devise': did you mean 'device'",
    "common: {loading: {vae: 3}}": "common: loading.vae: must be text",
    f"seeds: {list(range(6000))}\norders: [0, 1]": "sweep: 12,000 runs are more than 10,000",
}


@pytest.mark.parametrize("text", WRONG_GRIDS, ids=lambda text: text[:40])
def test_whatever_is_wrong_in_a_grid_is_one_line(text: str, tmp_path: Path, call: Callable) -> None:
    grid = tmp_path / "g.yaml"
    whole = "".join(f"{axis}: {them}\n" for axis, them in BASE.items() if ": " in text and axis not in text)
    grid.write_text(whole + text)
    code, _, said = call("sweep", "--grid", grid, "--set", "evaluation.batch_size=2", "--set", "steps=3", "--dry-run")
    (line,) = said.strip().splitlines()
    assert code == 2 and WRONG_GRIDS[text] in line
    assert line.startswith(("cpbench: sweep:", f"cpbench: grid {grid}: "))


def test_what_is_left_empty_in_a_grid_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(BASE) + "seeds:\ncommon:\n")
    grid, _ = sweep.grid_from(str(tmp_path / "g.yaml"), dict.fromkeys(sweep.AXES), None, (), {})
    assert (grid.seeds, grid.common) == ((0,), {"overlap": False})


def test_jobs_with_long_settings_have_names_that_files_can_have() -> None:
    layers = ",".join(f"layer{n}" for n in range(60))
    grid = sweep.Grid(methods=(f"seqlora target_modules=[{layers}]", "base"), sequences=("quick3",))
    assert [len(j.name) < 200 for j in sweep.jobs_of(grid)] == [True, True]


def test_a_setting_of_one_run_is_none_of_all() -> None:
    with pytest.raises(UserError, match="use --seeds"):
        sweep.grid_from(None, {a: None for a in sweep.AXES} | BASE, None, (), {"seed": 1})


# Running, here


@pytest.mark.slow
def test_one_failure_stops_nothing_and_is_told(short: str, tmp_path: Path, call: Callable) -> None:
    """And a second sweep finds what is done, and does what is not; finished runs are copied whole."""
    mine, output, copied = tmp_path / "mine.py", tmp_path / "out", tmp_path / "copied"
    mine.write_text(FAILING)
    words = ["--methods", f"{mine},base", "--sequences", short, "--output", output, "--copy-to", f"file://{copied}"]
    code, shown, _ = call("sweep", *words, "--dry-run")
    assert code == 0 and "2 of 2 runs to do" in shown and not output.exists()

    done = ask(*words)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 2 runs finished" in done.stdout and "ValueError: out of luck" in done.stdout
    statuses = {f.parts[-4]: read_json(f)["status"] for f in output.glob("**/run.json")}
    assert statuses == {"mine": "failed", "base": "finished"}
    assert [f.parts[-4] for f in copied.glob("**/run.json")] == ["base"]
    (ours,), (theirs,) = output.glob("**/base/*/*/scores.csv"), copied.glob("**/base/*/*/scores.csv")
    assert ours.read_bytes() == theirs.read_bytes()

    _, shown, _ = call("sweep", *words, "--dry-run")
    assert "1 of 2 runs to do" in shown and "finished" in shown
    mine.write_text(FAILING.replace("raise", "return super().learn(backbone, task, state) #"))
    again = ask(*words)
    assert again.returncode == 0 and "2 of 2 runs finished" in again.stdout, again.stdout
    assert "finished already" in (output / "sweep" / "short-miniature-base-order0-seed0.log").read_text()


def test_runs_end_with_the_sweep_that_started_them_and_go_on(short: str, tmp_path: Path) -> None:
    """SIGKILL tells nobody; the runs notice, so that they do not hold their folders against the next sweep."""
    words = ["--methods", "seqlora", "--sequences", short, "--output", tmp_path / "out", "--set", "steps=2000"]
    with subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if (tmp_path / "out" / "sweep" / "short-miniature-seqlora-order0-seed0.progress").exists():
                break
            time.sleep(0.1)
        children = psutil.Process(process.pid).children()
        process.kill()
    assert len(children) == 1
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_interrupted_sweeps_say_so(short: str, tmp_path: Path) -> None:
    words = ["--methods", "seqlora", "--sequences", short, "--output", tmp_path / "out", "--set", "steps=2000"]
    listening = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 (background jobs do not)
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=listening)
    log = tmp_path / "out" / "sweep" / "short-miniature-seqlora-order0-seed0.progress"
    for _ in range(1200):
        if log.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopped by SIGINT with 1 runs left" in said
    (record,) = (tmp_path / "out").glob("**/run.json")
    assert read_json(record)["status"] == "stopped"


# Running on Ray: the same scores, whatever dies


LORA = "seqlora steps=40 rank=2 batch_size=2 target_modules=[to_q] learning_rate=1e-3 token_learning_rate=1e-3"
RARE = "raretoken adapter=lora steps=3 token_steps=2 rank=1 batch_size=1 target_modules=[to_v]"


@pytest.fixture
def cluster():
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.worker = [found.add_node(num_cpus=1) for _ in range(2)]
    yield found
    found.shutdown()


def on_ray(cluster, output: Path, short: str, *more: object) -> subprocess.Popen:
    words = ["--methods", f"{LORA},{RARE},base", "--sequences", short, "--seeds", "0,1", "--output", output]
    words += ["--engine", "ray", "--address", cluster.address, *more]
    return subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def of_a_worker(output: Path) -> psutil.Process:
    """The process of a run that is at work, once there is one."""
    for _ in range(1200):
        for holder in output.glob("**/.holder.json"):
            if (who := read_json(holder)) and psutil.pid_exists(who["pid"]):
                return psutil.Process(who["pid"])
        time.sleep(0.1)
    raise AssertionError("no run began")


@pytest.mark.slow
def test_ray_and_this_machine_give_the_same_scores_and_lost_workers_and_nodes_cost_none(
    cluster, short: str, tmp_path: Path
) -> None:
    """Three methods, two seeds, two nodes: undisturbed, with a worker killed, with a node killed."""
    local = tmp_path / "local"
    done = ask("--methods", f"{LORA},{RARE},base", "--sequences", short, "--seeds", "0,1", "--output", local)
    assert done.returncode == 0, done.stdout
    wanted = scores(local)
    assert len(wanted) == 6 * (4 + 4)  # a run's and its rows' scores, and three matrices

    for what in ("undisturbed", "worker", "node"):
        output = tmp_path / what
        process = on_ray(cluster, output, short)
        if what == "worker":
            of_a_worker(output).kill()
        if what == "node":
            of_a_worker(output)
            cluster.remove_node(cluster.worker.pop(), allow_graceful=False)
        said, _ = process.communicate(timeout=580)
        assert process.returncode == 0, said
        assert "6 of 6 runs finished" in said
        assert scores(output) == wanted, what
    shutil.rmtree(tmp_path / "undisturbed")
