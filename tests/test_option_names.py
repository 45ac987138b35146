"""Options by the names of cpbench 0.1: records are read by today's names, settings are accepted with one warning."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from pydantic import Field

from cpbench import config, moved, output
from cpbench.baselines import clora, ewc
from cpbench.errors import UserError
from cpbench.method import Options
from cpbench.records import option_names
from cpbench.registry import built_in_methods, load_method

RECORDS = Path(__file__).parent / "records"
PAIRS = [(method, *pair) for method, names in option_names.RENAMED.items() for pair in names.items()]


@pytest.fixture(autouse=True)
def nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "_warned", set())


@pytest.mark.parametrize(("method", "old", "new"), PAIRS)
def test_the_new_name_is_an_option_and_the_old_one_is_not(method: str, old: str, new: str) -> None:
    fields = load_method(method).Options.model_fields
    assert new in fields and old not in fields


def test_every_method_with_a_renamed_option_is_in_the_table() -> None:
    new_names = {new for names in option_names.RENAMED.values() for new in names.values()}
    for method in built_in_methods():
        assert set(load_method(method).Options.model_fields) & new_names == set(
            option_names.RENAMED.get(method, {}).values()
        )


def test_a_record_of_0_1_has_the_options_of_today() -> None:
    facts = json.loads((RECORDS / "0.1-dcscore.json").read_text())["facts"]
    options = option_names.recorded(facts["method"], facts["options"])
    dcscore = load_method("dcscore").Options
    later = dcscore().model_dump().keys() - dcscore.identifying(dcscore().model_dump()).keys()
    assert options.keys() == dcscore.model_fields.keys() - later and "c0" in facts["options"]
    assert list(options.values()) == list(facts["options"].values())
    assert option_names.recorded(facts["method"], options) == options
    for method in ("./mine.py", "seqlora", None, ["dcscore"]):
        assert option_names.recorded(method, {"c0": 1, "keep_noun": 2}) == {"c0": 1, "keep_noun": 2}


def resolved(options: dict, settings: tuple[str, ...] = ()) -> Options:
    return config.resolve({"method": "clora", "sequence": "quick3", "options": options}, None, settings)[2]


def test_settings_by_an_old_name_are_accepted_with_one_warning() -> None:
    expected = resolved({"use_class_noun": True})
    with warnings.catch_warnings(record=True) as caught, output.collected() as lines:
        warnings.simplefilter("always")
        assert resolved({"keep_noun": True}) == resolved({}, ("keep_noun=true",)) == expected
    message = "option keep_noun is use_class_noun now; the old name goes with cpbench 0.3"
    assert [str(w.message) for w in caught] == [message] and lines == [f"warning: {message}"]
    assert expected.forgetting_weight == 10000.0  # the preset of this variant is found by either name


def test_the_same_option_by_both_names_is_refused() -> None:
    with pytest.raises(UserError, match="unknown key 'keep_noun'"):
        resolved({"keep_noun": True, "use_class_noun": False})


def test_a_method_of_the_users_own_is_asked_for_its_own_names() -> None:
    class Mine(ewc.EwcOptions):
        c0: int = Field(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accepted = option_names.accepted({"c0": 3, "fisher_draws": 4, "towards_ones": 5}, Mine.model_fields)
    assert accepted == {"c0": 3, "fisher_samples": 4, "towards_ones": 5}
    assert "keep_noun" not in clora.CLoraOptions.model_fields


def test_the_command_line_shows_the_note(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("methods: [clora keep_noun=true]\nsequences: [quick3]\nseeds: [0, 1]\n")
    command = [sys.executable, "-m", "cpbench", "sweep", "--grid", "grid.yaml", "--output", "out", "--dry-run"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("warning: option keep_noun is use_class_noun now") == 1 and finished.stderr == ""
