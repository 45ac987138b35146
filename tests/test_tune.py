"""The search for settings: its score, its ranges, what it writes, and that it goes on."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml

from cpbench import config, registry
from cpbench.errors import UserError
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.registry import PROVENANCE, baselines_folder, built_in_methods, load_method
from cpbench.running import tune

PRESETS = Path(str(baselines_folder() / "presets"))
SEARCHES = {name: load_method(name).search for name in built_in_methods()}
RANGES = {f"{name} {settings}".strip(): table for name, of in SEARCHES.items() for settings, table in of.items()}


def measured(dino: list[list[float]], clip_t: list[list[float]], real: list[float]) -> pd.DataFrame:
    """Scores of rows 0 and 2 of concepts a and b, two pictures each, around these means."""
    rows = []
    for row, *values in ((0, dino[0], clip_t[0]), (2, dino[1], clip_t[1])):
        for metric, means in zip(("dino", "clip_t"), values, strict=True):
            for concept, mean in zip("ab", means, strict=True):
                rows += [(row, "cell", concept, "p", k, metric, mean + d) for k, d in ((0, 0.1), (1, -0.1))]
    rows += [(0, "real", concept, "", 0, "dino", value) for concept, value in zip("ab", real, strict=True)]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def test_the_score_by_hand() -> None:
    """a: (0.5 - 0.1) / (0.9 - 0.1) = 0.5, its prompts better than before: times 1. b: 0.2 / 0.4 = 0.5, times 0.3 / 0.4."""
    scores = measured([[0.1, 0.4], [0.5, 0.6]], [[0.2, 0.4], [0.3, 0.3]], [0.9, 0.8])
    assert tune.trial_score(scores, ["a", "b"]) == pytest.approx((0.5 + 0.5 * 0.75) / 2)
    assert tune.trial_score(scores, ["b", "a"]) == pytest.approx((0.5 + 0.5 * 0.75) / 2)
    nothing = scores.assign(value=scores["value"].where(scores["row"] == 0))
    assert np.isnan(tune.trial_score(nothing, ["a", "b"]))


def test_every_method_can_be_tuned_and_starts_from_its_preset() -> None:
    assert {words.split()[0] for words in RANGES} == set(built_in_methods()) - {"base"}


@pytest.mark.parametrize("words", RANGES)
def test_ranges_are_of_the_methods_options_and_hold_its_preset(words: str) -> None:
    method, *settings = words.split()
    own, _ = config.split_settings(config.parse_settings(tuple(settings)))
    _, kind, usual = config.resolve({"method": method, "sequence": tune.SEQUENCE, "options": own})
    assert 1 <= len(RANGES[words]) <= 4
    for option, among in RANGES[words].items():
        value = getattr(usual, option)
        if "choices" in among:
            assert value in among["choices"]
        else:
            low, high = among["log"]
            assert 0 < low <= value <= high


@pytest.mark.parametrize("words", ["", " ", "ewcc", "ewcc lambda=3"])
def test_what_is_no_method_to_tune_is_one_line(words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method"):
        tune.tune(words, 1, tmp_path)


def test_methods_may_be_searched_at_once(tmp_path: Path) -> None:
    begin = "import sys, pathlib; from cpbench.running import tune; tune.study_of(sys.argv[1], 4, pathlib.Path(sys.argv[2]), 'x')"
    names = ("ewc", "l2", "olora", "dcscore variant=ewc")
    started = [subprocess.Popen([sys.executable, "-c", begin, name, str(tmp_path)]) for name in names]
    assert [process.wait(120) for process in started] == [0] * 4
    for name in names:
        study = tune.study_of(name, 4, tmp_path, "x")
        assert study.study_name == f"{name} x" and study.trials == []
        study.add_trial(optuna.trial.create_trial(value=float(len(name))))
    assert [tune.study_of(name, 4, tmp_path, "x").best_value for name in names] == [len(name) for name in names]


def test_trials_of_another_model_or_other_ranges_are_of_another_study() -> None:
    """A study that went on with them would call the best of unlike numbers the best."""
    facts = {"options": {"rank": 4, "learning_rate": 1e-3}, "backbone": "a", "code": "b"}
    wanted = {"learning_rate": {"log": [1e-4, 1e-2]}}
    name = tune.identity(facts, wanted)
    assert tune.identity(facts | {"options": {"rank": 4, "learning_rate": 3e-3}}, wanted) == name
    for other in ({"options": {"rank": 8, "learning_rate": 1e-3}}, {"backbone": "c"}, {"code": "c"}):
        assert tune.identity(facts | other, wanted) != name
    assert tune.identity(facts, {"learning_rate": {"log": [1e-4, 1e-1]}}) != name


def test_no_benchmark_sequence_is_searched_on() -> None:
    from cpbench.concepts import sequences

    searched = {c.name for c in sequences.load(tune.SEQUENCE).concepts}
    for name in ("quick3", "dreambench10", "miniature50"):
        assert not searched & {c.name for c in sequences.load(name).concepts}


def test_what_is_written_is_read_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "miniature.yaml"
    file.write_text("a: &x {steps: 3, rank: 2}\nb: *x\nb v=1: {rank: 4}\n")
    tune.write_preset(file, "b", {"rank": 8, "rate": 1e-3}, {"score": 0.5, "trials": 4})
    table = yaml.safe_load(file.read_text())
    assert table["a"] == {"steps": 3, "rank": 2} and table["b v=1"] == {"rank": 4}
    assert table["b"] == {"steps": 3, "rank": 8, "rate": 1e-3, "_provenance": {"score": 0.5, "trials": 4}}
    (tmp_path / "presets").mkdir()
    file.rename(tmp_path / "presets" / "miniature.yaml")
    monkeypatch.setattr(registry, "baselines_folder", lambda: tmp_path)
    assert registry.preset("miniature", "b") == {"steps": 3, "rank": 8, "rate": 1e-3}  # provenance is no option


def test_an_unknown_method_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'seqlora'"):
        tune.tune("seqlor", 1, tmp_path)


@pytest.mark.slow
def test_a_study_goes_on_and_its_first_trial_is_the_preset(tmp_path: Path) -> None:
    words = "seqlora steps=1 batch_size=1"
    first = tune.tune(words, 1, tmp_path, tmp_path)
    second = tune.tune(words, 3, tmp_path, tmp_path)
    assert second["first"] == first["score"] and second["score"] >= first["score"] and second["trials"] == 3
    assert len(list((tmp_path / "runs").glob("**/run.json"))) == 3
    (kept,) = yaml.safe_load((tmp_path / "miniature.yaml").read_text()).values()
    assert set(kept) == {"learning_rate", "token_learning_rate", "_provenance"}


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Stopped in its first trial and in its third, each in a process of its own; against one that was never stopped."""
    ranges = {"a": {"log": (1e-3, 1.0)}, "b": {"choices": (1, 2, 3, 4, 5)}}

    def trials(folder: Path, stops: tuple[int, ...]) -> list[dict]:
        folder.mkdir()
        while True:
            study = tune.study_of("ewc", 4, folder, "x")
            if not study.trials:
                study.enqueue_trial({"a": 0.5, "b": 3})
            tune.go_on(study)
            while len(values := study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) < 4:
                trial = study.ask()
                suggestion = tune.suggested(trial, ranges)
                if len(values) in stops:  # killed here: the trial stays at work
                    stops = tuple(k for k in stops if k != len(values))
                    break
                study.tell(trial, suggestion["a"])
            else:
                return [t.params for t in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]

    whole = trials(tmp_path / "whole", ())
    assert trials(tmp_path / "stopped", (0, 2)) == whole and whole[0] == {"a": 0.5, "b": 3}
    assert len({params["a"] for params in whole}) == 4


def test_the_page_of_trials_tells_of_every_searched_preset() -> None:
    """docs/tuning.md has as many trials of each method as its preset says, the best of which is the preset's."""
    root = Path(__file__).parent.parent
    page = (root / "docs" / "tuning.md").read_text()
    presets = yaml.safe_load((root / "baselines" / "presets" / "miniature.yaml").read_text())
    searched = {name: it for name, it in presets.items() if PROVENANCE in it}
    waiting = {
        name
        for line in re.findall(r"^Not searched yet: (.*)\.$", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }
    assert set(searched) == set(built_in_methods()) - {"base"} - waiting and not waiting & set(searched)
    for name, preset in searched.items():
        told, trials = preset[PROVENANCE], []
        for words, score in re.findall(rf"^\| `{name}` \| \d+ \| ([^|]+) \| \**([-\d.]+)\** \|$", page, re.MULTILINE):
            trials.append((float(score), dict(it.rsplit(" ", 1) for it in words.strip().split(", "))))
        best, values = max(trials, key=lambda it: it[0])
        assert len(trials) == told["trials"] and sorted(values) == told["searched"], name
        assert best == pytest.approx(told["score"], abs=6e-4) and trials[0][0] == pytest.approx(told["first"], abs=6e-4)
        for option, value in values.items():
            assert float(value) == pytest.approx(preset[option], rel=5e-3), (name, option)
