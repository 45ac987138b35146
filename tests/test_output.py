"""One channel for what is said: silent in a library, lines in a log, and what names say is only text."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from cpbench import output

QUIET = """
import cpbench
from pathlib import Path

out = Path({output!r})
given = {{"method": "base", "sequence": {sequence!r}, "output": out, "overlap": False}}
done = cpbench.run(**given)
assert len(done["scores"]) and set(done["matrices"]) and done["folder"].is_dir()
print("--")
cpbench.run(progress=True, **given)
"""
SHORT = """
name: short
version: 1
images: {drawn: true}
concepts: [{name: dog, class_noun: dog, kind: live}]
evaluation: {live: ["a {} in the snow"], pictures_per_prompt: 1, num_inference_steps: 1}
"""


def test_a_library_prints_nothing_unless_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)
    code = QUIET.format(output=str(tmp_path / "out"), sequence=str(tmp_path / "short.yaml"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    before, told = ended.stdout.split("--\n")
    assert before == "" and ended.stderr == ""
    assert told.startswith("finished already: ")


def test_what_is_said_goes_nowhere_where_nobody_opened_the_channel(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_listener", None)  # as it is before anybody opens it
    monkeypatch.setattr(output, "_console", None)
    output.say("a line")
    assert output.console() is None and capsys.readouterr().out == ""


def test_lines_stay_lines_and_names_are_only_text(capsys: pytest.CaptureFixture) -> None:
    line = "a [bold]name[/bold] \x1b[2Jof anybody, " + "long " * 60
    with output.opened():
        output.say(line)
    assert capsys.readouterr().out == line.replace("\x1b", " ") + "\n"


def test_tables_are_as_wide_as_a_log(capsys: pytest.CaptureFixture) -> None:
    table = Table(expand=True)
    table.add_column("a")
    with output.opened():
        output.say(table)
    assert {len(line) for line in capsys.readouterr().out.splitlines()} == {output.LOG_WIDTH}


def test_what_is_collected_is_not_printed_and_the_channel_is_as_before_after_an_error(
    capsys: pytest.CaptureFixture,
) -> None:
    with output.opened():
        with pytest.raises(ZeroDivisionError), output.collected() as lines:
            output.say("kept")
            1 / 0  # noqa: B018
        output.say("told")
    assert lines == ["kept"] and capsys.readouterr().out == "told\n"
