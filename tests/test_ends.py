"""How a run ends that does not finish: the status is true, one line says why and from where it resumes, nothing is lost."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import undisturbed

from cpbench.errors import DamagedState, UserError
from cpbench.files import file_hash, read_json
from cpbench.method import State
from cpbench.records import tables, upgrade
from cpbench.records.folder import RunFolder
from cpbench.report import data
from cpbench.running import audit, engines, memory, stopping
from cpbench.running.runner import resume_point

# In task 2 it waits, or fails, as STOP_TASK_2 says; STOP_TASK_2=hang waits in its own clean-up as well.
WAITING = """
import os
import sys
import time
from pathlib import Path

import torch

from cpbench.baselines.base import Base


class Waiting(Base):
    def learn(self, backbone, task, state):
        order = os.environ.get("STOP_TASK_2", "") if backbone.computes else ""  # not while evaluations are counted
        if task.number == 2 and order == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB")
        if task.number == 2 and order == "exit":
            sys.exit(0)
        if task.number == 2 and order:
            try:
                Path(order).touch()
                while not Path(order + "-no-more").exists():
                    time.sleep(0.01)
            finally:
                if order.endswith("hang"):
                    Path(order + "ing").touch()
                    time.sleep(600)
        return super().learn(backbone, task, state)
"""


def words_of(tmp_path: Path, *more: object, output: str = "output") -> list[str]:
    """`cpbench run` of the waiting method, on the tiny backbone."""
    method = tmp_path / "waiting.py"
    method.write_text(WAITING)
    settings = undisturbed.given(tmp_path, tmp_path / output)
    words = ["run", "--method", method, "--sequence", settings["sequence"], "--backbone", settings["backbone"]]
    return [str(word) for word in (*words, "--device", "cpu", "--output", settings["output"], *more)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """start(words, order): a process of the command line, with STOP_TASK_2 as ordered; none outlives the test."""
    processes = []

    def started(words: list[str], order: Path | str) -> Any:
        process = undisturbed.server().Process(target=go, args=(words, tmp_path / "log", str(order)))
        process.start()
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.join()


def go(words: list[str], log: Path, order: str) -> None:
    os.environ["STOP_TASK_2"] = order
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests in the background of a shell inherit that it is ignored
    undisturbed.go_command(words, log)


def wait_for(marker: Path, process: Any, log: Path) -> None:
    for _ in range(6000):
        if marker.exists():
            return
        assert process.is_alive(), log.read_text()
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def record_below(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("**/run.json")
    return read_json(file)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_stops_a_run_in_one_line(name: str, code: int, tmp_path: Path, start: Callable[..., Any]) -> None:
    marker, log, words = tmp_path / "waits", tmp_path / "log", words_of(tmp_path, "--no-overlap")
    process = start(words, marker)
    wait_for(marker, process, log)
    os.kill(process.pid, getattr(signal, name))
    process.join(60)
    text = log.read_text()
    assert process.exitcode == code and "Traceback" not in text, text
    assert text.strip().splitlines()[-1] == f"cpbench: stopped by {name}; the same command resumes after task 1 of 3"
    assert record_below(tmp_path / "output")["status"] == "stopped"
    # and it does, and says so
    log.unlink()
    process = start(words, "")
    process.join(120)
    assert process.exitcode == 0 and "this run resumes after task 1 of 3" in log.read_text()
    assert record_below(tmp_path / "output")["status"] == "finished"


def test_a_second_signal_ends_a_run_at_once_and_in_silence(tmp_path: Path, start: Callable[..., Any]) -> None:
    marker, log = tmp_path / "hang", tmp_path / "log"
    process = start(words_of(tmp_path, "--no-overlap"), marker)
    wait_for(marker, process, log)
    os.kill(process.pid, signal.SIGINT)
    wait_for(tmp_path / "hanging", process, log)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and "Traceback" not in log.read_text()


def test_a_lost_second_process_costs_nothing(tmp_path: Path, start: Callable[..., Any]) -> None:
    """It is killed while task 2 is learned; the rows that it had not made are then made here, and are the same."""
    marker, log = tmp_path / "waits", tmp_path / "log"
    words = words_of(tmp_path, "--overlap", output="lost")
    process = start(words, marker)
    wait_for(marker, process, log)
    workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 1
    workers[0].kill()
    (tmp_path / "waits-no-more").touch()
    process.join(120)
    text = log.read_text()
    assert process.exitcode == 0, text
    assert "the second process, which generates the rows, was lost" in text and "Traceback" not in text
    assert record_below(tmp_path / "lost")["status"] == "finished"


def test_ctrl_c_with_a_second_process_is_one_line_too(tmp_path: Path, start: Callable[..., Any]) -> None:
    """A terminal sends SIGINT to both processes."""
    marker, log = tmp_path / "waits", tmp_path / "log"
    process = start(words_of(tmp_path, "--overlap"), marker)
    wait_for(marker, process, log)
    children = psutil.Process(process.pid).children(recursive=True)
    for number in (process.pid, *(child.pid for child in children)):
        os.kill(number, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and "Traceback" not in log.read_text(), log.read_text()
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_older_records_that_were_interrupted_are_stopped() -> None:
    for schema in (2, 3):
        record = {"schema": schema, "status": "interrupted", "facts": {}}
        assert upgrade.today(record)["status"] == "stopped"
    assert upgrade.today({"schema": 3, "status": "failed", "facts": {}})["status"] == "failed"


def test_a_stop_that_a_library_made_an_error_of_is_still_a_stop(
    call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a signal in the middle of an import, which then fails."""

    def failing(*given: object, **named: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    monkeypatch.setattr("cpbench.config.requested", failing)
    handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        code, _, error_text = call("run", "--method", "base", "--sequence", "quick3")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        stopping._received = None
    assert code == 143 and error_text.strip().startswith("cpbench: stopped by SIGTERM; ")
    assert len(error_text.strip().splitlines()) == 1


def test_ignored_signals_stay_ignored() -> None:
    """`nohup cpbench run` goes on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.signals_raise():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(stopping.Stopped):
                signal.raise_signal(signal.SIGTERM)
            stopping._received = None  # so that the handlers are put back
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# The watch on replay, which runs in every thread


def test_the_watch_may_end_while_another_thread_is_in_it(tmp_path: Path) -> None:
    """The memory sampler opens files of /proc all the time, also in the moment in which a task has been learned."""
    errors, is_over = [], threading.Event()

    def opening() -> None:
        while not is_over.is_set():
            try:
                open(os.devnull, "rb").close()
            except Exception as error:
                errors.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=opening)
    thread.start()
    try:
        for _ in range(5_000):
            with audit.learning_only("dog", [tmp_path], tmp_path):
                time.sleep(0)  # the other thread's turn
            if errors:
                break
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert errors == []


def test_the_watch_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, in the one order that fails: the watch ends while a path is resolved."""
    resolve = os.path.realpath

    def ending(path: Any, **named: Any) -> str:
        audit._watch = None
        return resolve(path, **named)

    with audit.learning_only("dog", [tmp_path], tmp_path), monkeypatch.context() as patched:
        patched.setattr(audit.os.path, "realpath", ending)
        audit._hook("open", (os.devnull, "r", 0))


# Memory


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as error:
        call()
    return error.value


def test_a_shortage_is_one_line_with_advice() -> None:
    errors = [
        raised(lambda: torch.empty(10**15)),
        raised(lambda: torch.empty((2**40, 2**40))),
        raised(lambda: np.empty(10**15)),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB). Tried to allocate 2.00 GB on private pool."),
    ]
    for error in errors:
        line = memory.shortage_line(error)
        assert line.startswith("out of memory on ") and "\n" not in line
        assert all(word in line for word in ("batch_size", "--gradient-checkpointing", "--offload", "--resolution"))
    assert "on the GPU, 20.00 GiB more were needed;" in memory.shortage_line(errors[3])
    assert "on the GPU, 2.00 GB more were needed;" in memory.shortage_line(errors[4])
    assert "on this machine, 4,000.0 TB more were needed;" in memory.shortage_line(errors[0])
    assert (
        memory.shortage_line(RuntimeError("shapes differ")) == memory.shortage_line(ValueError("out of memory")) == ""
    )


def test_out_of_memory_while_learning_is_a_failed_run_and_a_line(
    tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_TASK_2", "out of memory")
    code, _, text = call(*words_of(tmp_path, "--no-overlap"))
    assert code == 1 and len(text.strip().splitlines()) == 1 and text.startswith("cpbench: out of memory on the GPU")
    record = record_below(tmp_path / "output")
    assert record["status"] == "failed" and record["reason"].startswith("out of memory on the GPU, 20.00 GiB")


def test_a_method_that_exits_is_a_failed_run_and_not_a_success(
    tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_TASK_2", "exit")
    code, _, text = call(*words_of(tmp_path, "--no-overlap"))
    assert code == 1 and text.strip().splitlines()[-1] == (
        "cpbench: the method broke the rules: it ended the program by sys.exit(0); raise an error instead, or return"
    )
    assert record_below(tmp_path / "output")["status"] == "failed"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("rank=1000000000", "rank 1,000,000,000 needs at least"),
        ("batch_size=1000000000000", "batch_size 1,000,000,000,000: a batch needs at least"),
        ("rank=100000000000000000000000", "rank 100,000,000,000,000,000,000,000 needs at least"),
    ],
)
def test_what_can_never_fit_is_refused_before_anything_is_made(
    setting: str, reason: str, tmp_path: Path, call: Callable
) -> None:
    settings = undisturbed.given(tmp_path, tmp_path / "output")
    words = ["run", "--method", "seqlora", "--sequence", settings["sequence"], "--backbone", settings["backbone"]]
    code, _, text = call(*words, "--device", "cpu", "--output", tmp_path / "output", "--set", setting)
    assert code == 2 and len(text.strip().splitlines()) == 1 and reason in text and "; lower " in text
    assert not list((tmp_path / "output").glob("**/run.json"))


# Copies


@pytest.mark.parametrize("url", ["file:///proc/none", "nosuch://bucket"])
def test_where_copies_go_is_tried_before_a_sweep(url: str, tmp_path: Path, call: Callable) -> None:
    words = ("sweep", "--methods", "base", "--sequences", "quick3", "--output", tmp_path / "out", "--copy-to", url)
    code, _, text = call(*words)
    (line,) = text.strip().splitlines()
    assert code == 2 and line.startswith(f"cpbench: --copy-to {url}: cannot be written (") and "choose another" in line
    assert not (tmp_path / "out").exists()


def test_a_copy_that_fails_later_does_not_make_a_finished_run_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = undisturbed.given(tmp_path, tmp_path / "out") | {"method": "base", "options": {}, "device": "cpu"}
    code = engines.run_job({**settings, "output": str(settings["output"])}, tmp_path / "p", 1, "file:///proc/none", 0.0)
    assert code == engines.COPY_FAILED and record_below(tmp_path / "out")["status"] == "finished"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("cpbench: the run is finished: ") and "copying it to file:///proc/none failed" in last


# Files of others


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes to: whoever opens it waits forever."""
    path = tmp_path / "scores.csv"
    os.mkfifo(path)
    yield path


def test_a_pipe_is_no_table_and_is_not_waited_for(pipe: Path) -> None:
    assert tables.read_scores(pipe) is None and tables.table_bytes(pipe) == b""
    with pytest.raises(OSError, match="not a file"):
        file_hash(pipe)
    (pipe.parent / "state").mkdir()
    os.mkfifo(pipe.parent / "state" / "state.json")
    with pytest.raises(DamagedState, match="no file"):
        State.load(pipe.parent / "state")


def test_a_table_of_60_gb_is_refused_by_its_size(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.touch()
    os.truncate(file, 60 * 2**30)  # a hole: it takes no space
    assert tables.read_scores(file) is None and tables.table_bytes(file) == b""


def test_a_picture_of_60_gb_is_left_out_of_a_report_unread(tmp_path: Path) -> None:
    row = RunFolder(tmp_path).task(0)
    row.all_pictures.mkdir(parents=True)
    picture = row.all_pictures / "dog-00.png"
    picture.touch()
    os.truncate(picture, 60 * 2**30)
    row.row.write_text(json.dumps({"pictures": {str(picture.relative_to(row.path)): "0" * 64}}))
    run = SimpleNamespace(folder=tmp_path, tasks=0, altered_pictures=set(), notes=[])
    data.add_pictures(run)
    assert run.altered_pictures == {picture}


# Broken packages, and nouns that are no words


def test_a_broken_package_hides_no_other_sequence(
    tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_sequences.py").write_text("raise SystemExit('no licence')\n")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    groups = ("sequences", "methods", "judges")
    text = "".join(f"[cpbench.{group}]\nbroken = broken_sequences:{group}\n" for group in groups)
    (info / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code, shown, error_text = call("list", "sequences")
    assert code == 0 and error_text == "" and "quick3" in shown and "no licence" in shown
    assert call("list", "methods")[0] == 0
    for words in (["--method", "broken", "--sequence", "quick3"], ["--method", "base", "--sequence", "broken"]):
        code, _, error_text = call("run", *words)
        assert code == 2 and "no licence" in error_text and len(error_text.strip().splitlines()) == 1


def test_a_class_noun_that_looks_like_a_new_word_is_refused_where_it_is_read(tmp_path: Path) -> None:
    from cpbench.concepts import sequences

    file = tmp_path / "mine.yaml"
    file.write_text(undisturbed.SEQUENCE.replace("class_noun: backpack", "class_noun: <v1>"))
    with pytest.raises(UserError, match=r"concept 2 .*class_noun: '<v1>' contains <v1>.* write the plain word"):
        sequences.load(str(file))


def test_the_resume_point_is_after_the_last_complete_task(tmp_path: Path) -> None:
    run = SimpleNamespace(concepts=["a", "b", "c"], at=RunFolder(tmp_path))
    assert resume_point(run) == "begins again with task 1 of 3"
    for t in (1, 2):
        run.at.task(t).path.mkdir()
        run.at.task(t).state_record.write_text(json.dumps({}))
    assert resume_point(run) == "resumes after task 2 of 3"
