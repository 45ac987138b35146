"""Records of earlier versions are read as today's: three of cpbench 0.1 (commit 7b828a6), kept as it wrote them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cpbench import own_modules
from cpbench.config import resolve
from cpbench.files import short_hash, write_json
from cpbench.records import option_names, reading, upgrade
from cpbench.records.record import SCHEMA, Cost, Record, changed_evaluation, contradiction
from cpbench.registry import built_in_methods, load_method
from cpbench.report import data
from cpbench.running.bookkeeping import runs_of_other_versions
from cpbench.running.prepare import prepare
from cpbench.version import SCORES

KEPT = Path(__file__).parent / "records"
NAMES = ("dcscore", "raretoken", "seqlora")


def written(name: str) -> dict[str, Any]:
    return json.loads((KEPT / f"0.1-{name}.json").read_text())


def in_folder(folder: Path, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", record)
    return folder


@pytest.mark.parametrize(
    ("name", "scores", "versions"),
    [("dcscore", 1, {"dcscore": 1}), ("raretoken", 0, {"raretoken": 1}), ("seqlora", 1, {"seqlora": 1})],
)
def test_a_record_of_0_1_is_one_of_today(tmp_path: Path, name: str, scores: int, versions: dict[str, int]) -> None:
    """Whole weights were handed on in the order of a file's tensors: what `raretoken` gave nothing gives again."""
    before = written(name)
    file = in_folder(tmp_path / "run", before) / "run.json"
    text = file.read_bytes()
    found = upgrade.today(json.loads(text))
    own = reading.read(tmp_path / "run")
    assert file.read_bytes() == text  # never rewritten
    assert before["schema"] == 1 and found["schema"] == SCHEMA and found["is_sound"]
    assert (found["facts"]["scores"], found["facts"]["versions"]) == (scores, versions)
    assert "code" not in found["facts"] and "source" not in found["facts"] and found["hash"] == before["hash"]
    assert [it["learning"] for it in found["made_on"]] == [[1, 2, 3]] and found["made_on"][0]["row"] == [0, 1, 2, 3]
    assert found["made_on"][0]["device"] == "cpu" and found["made_on"][0]["versions"] == before["versions"]
    assert before["config"]["options"]["target_modules"][:4] == ["to_q", "to_k", "to_v", "to_out.0"]
    options = before["config"]["options"] | {"target_modules": ["attention", "feed_forward", "conv1", "conv2"]}
    options = option_names.recorded(name, options)
    evaluation = dict(before["config"]["evaluation"])
    evaluation["forward_transfer_cells"] = evaluation.pop("upper_triangle")
    config = dict(before["config"])
    assert config.pop("rows") is None  # evaluation.rows today, where it is not at its default
    renamed = {"options": options, "evaluation": evaluation}
    assert found["config"] == config | renamed and found["facts"]["options"] == options
    for same in ("sequence", "files", "changed"):
        assert found[same] == before[same]
    assert found["figures"] == before["summary"] and found["multi_concept"] == before["composition"]
    cost, was = own.costs[3], before["costs"]["3"]
    assert (
        cost.state_bytes == was["carried_bytes"] and cost.learning_evaluations == was["learning_unet_evaluations"] > 0
    )
    assert cost.pictures_generated == was["pictures_drawn"] and cost.generation_seconds == was["drawing_seconds"]
    assert not {*found["costs"]["3"]} - {*Cost.model_fields}
    assert own.facts.method == name and own.costs.keys() == {0, 1, 2, 3}
    assert contradiction(own) == "" and data.from_record(own, tmp_path / "run").concepts == ["dog", "backpack", "dog2"]


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_facts_that_the_same_run_has_today(tmp_path: Path, name: str) -> None:
    """But for SCORES where the numbers are others: so `cpbench run` knows that there is such a run."""
    before = written(name)
    asked = {k: v for k, v in upgrade.today(before)["config"].items() if v is not None and k != "loading"}
    run = prepare(*resolve(asked | {"output": tmp_path, "device": "cpu"}))
    today = json.loads(json.dumps(run.facts))
    found = upgrade.today(before)["facts"]
    assert set(today.pop("references")) == {"dog", "backpack", "dog2"}  # before, the training pictures
    assert found | {"scores": SCORES} == today
    folder = in_folder(run.folder.parent.parent / before["hash"] / run.folder.name, before)
    (line,) = runs_of_other_versions(run)
    assert line == f"{folder}: a finished run by cpbench 0.1.0; it is kept, the new run goes to {run.folder}"
    for change in ({"backbone": "00" * 32}, {"options": {}}, {"pictures_per_prompt": 1}):
        in_folder(folder, before | {"facts": before["facts"] | change})
        assert list(runs_of_other_versions(run)) == []
    in_folder(folder, before | {"status": "interrupted"})
    (line,) = runs_of_other_versions(run)
    assert "an unfinished run by cpbench 0.1.0" in line


@pytest.mark.parametrize("schema", [1, 2])
def test_an_evaluation_setting_has_its_new_name_and_the_facts_keep_theirs(schema: int) -> None:
    record = {"schema": schema, "config": {"evaluation": {"upper_triangle": True}}, "facts": {"upper_triangle": True}}
    assert upgrade.today(record)["config"]["evaluation"] == {"forward_transfer_cells": True}
    assert (
        upgrade.today(record)["facts"]["upper_triangle"] is True and "upper_triangle" in record["config"]["evaluation"]
    )
    evaluation = upgrade.today(record)["config"]["evaluation"]
    assert changed_evaluation(evaluation) == {"evaluation.forward_transfer_cells": True}


@pytest.mark.parametrize("schema", [1, 2])
def test_options_have_their_new_names_everywhere(schema: int) -> None:
    record = {
        "schema": schema,
        "facts": {"method": "clora", "options": {"keep_noun": True, "rank": 4}},
        "config": {"options": {"rank": 4, "keep_noun": True}},
        "changed": {"keep_noun": True},
    }
    before, upgraded = copy.deepcopy(record), upgrade.today(record)
    assert upgraded["facts"]["options"] == {"use_class_noun": True, "rank": 4}
    assert list(upgraded["config"]["options"].items()) == [("rank", 4), ("use_class_noun", True)]
    assert upgraded["changed"] == {"use_class_noun": True} and record == before
    other = upgrade.today(record | {"facts": {"method": "mine", "options": {"keep_noun": True}}})
    assert other["facts"]["options"] == {"keep_noun": True}  # a method of the user's own may call its options anything


def test_every_method_of_0_1_has_its_bytes_and_the_versions_that_it_has_now() -> None:
    """`version` was 1 of all that were there, and of every built-in that they extend."""
    assert set(upgrade.BYTES) < set(built_in_methods()) and len(set(upgrade.BYTES.values())) == 21
    for name, code in upgrade.BYTES.items():
        given = {"schema": 1, "facts": {"method": name, "code": code, "options": {}}}
        expected = dict.fromkeys(own_modules.identity(load_method(name))["versions"], 1)
        assert upgrade.today(given)["facts"]["versions"] == expected, name


def test_other_code_is_code_that_is_not_known() -> None:
    before = written("seqlora")
    for code in ("00" * 32, upgrade.BYTES["ewc"], None, 3, ["x"]):
        found = upgrade.today(before | {"facts": before["facts"] | {"code": code}})
        assert found["facts"]["scores"] == 0 and found["facts"]["versions"] == {} and found["facts"]["source"] == code
    mine = copy.deepcopy(before)
    mine["facts"]["method"] = "mine"
    assert upgrade.today(mine)["facts"]["source"] == before["facts"]["code"]


def test_the_hash_is_checked_as_it_was_written(tmp_path: Path) -> None:
    before = written("seqlora")
    for change in ({"code": upgrade.BYTES["seqlora"][:-1] + "f"}, {"pictures_per_prompt": 7}, {"scores": 1}):
        forged = upgrade.today(before | {"facts": before["facts"] | change, "is_sound": True})
        assert not forged["is_sound"] and contradiction(Record.model_validate(forged))
    assert not contradiction(reading.parsed(before))
    later = before | {"schema": SCHEMA, "facts": upgrade.today(before)["facts"]}
    assert not upgrade.today(later)["is_sound"]  # the old hash with today's facts
    assert upgrade.today(later | {"hash": short_hash(later["facts"])})["is_sound"]


@pytest.mark.parametrize("odd", [None, 3, [], {}, {"schema": 1}, {"schema": 1, "facts": 3}, {"schema": 7, "facts": {}}])
def test_what_is_no_record_stays_what_it_is(odd: Any) -> None:
    found = upgrade.today(odd)
    assert found == odd or found == odd | {"is_sound": False}


def test_rows_of_two_scores_are_not_averaged(tmp_path: Path) -> None:
    """Seeds of one method that older and today's code made stand in two rows, the older marked."""
    from test_leaderboard import CODE, facts, groups_in, make_run

    for seed in (0, 1):
        make_run(tmp_path / f"new{seed}", "ewc", 0.6, (seed, 0))
        make_run(tmp_path / f"old{seed}", "ewc", 0.5, (seed, 0), facts=facts("ewc") | CODE | {"scores": 0})
    (group,) = groups_in(tmp_path)
    assert sorted((row["scores"], len(row["runs"])) for row in group["rows"]) == [(0, 2), (SCORES, 2)]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| ewc† |" in text and "| ewc |" in text and "† marks runs" in text
