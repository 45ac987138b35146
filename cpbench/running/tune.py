"""Search for a method's options, on the validation sequence only, with the same number of trials for every method.

A trial is a run over `miniature-val6` of which row 0 and the last row are generated, scored against the training pictures, so
that all presets are chosen by one score. It was fixed in advance and weighs retained identity against prompt following. With R the retention matrix by DINO, C its ceilings and S the matrix by CLIP-T,
over concepts j,

    score = mean_j (R[T][j] - R[0][j]) / (C_j - R[0][j]) * min(1, S[T][j] / S[0][j])

The first trial is the current preset (or the defaults); Optuna's seeded sampler proposes the others, from the ranges in
the method's class (`Method.search`). Interrupted trials and studies resume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock

from cpbench import config, miniature
from cpbench.errors import UserError
from cpbench.files import prepare_folder, short_hash, write_atomically
from cpbench.metrics import matrices
from cpbench.metrics.matrices import reference_row
from cpbench.numbers import number
from cpbench.output import say
from cpbench.records import machine, tables
from cpbench.records.folder import RunFolder
from cpbench.registry import PROVENANCE, baselines_folder, load_method

SEQUENCE = "miniature-val6"
HEADER = """# Settings on {backbone}, written by `cpbench tune`, which searches on miniature-val6 and on nothing else. {provenance} says of
# each method how many trials there were, of which options, how the best one and the first one, the values before the
# search, scored, and at which commit; options that are not among those searched were set by hand, as were all values of a
# method without it.{more}

"""
INTERRUPTED = "interrupted"  # numbers of a study's trials that were stopped, and tried again under other numbers
OVER_THE_MINIATURES = " What is not here is in miniature.yaml."


def trial_score(scores: pd.DataFrame, concepts: list[str]) -> float:
    """A trial's score from its scores.csv; NaN if a cell is not defined."""
    tables = matrices.matrices(scores, concepts)
    R, S = tables["dino"].to_numpy(), tables["clip_t"].to_numpy()
    C = np.array(reference_row(scores, "real", "dino", concepts))
    return float(np.mean((R[-1] - R[0]) / (C - R[0]) * np.minimum(1.0, S[-1] / S[0])))


def search_ranges(words: str) -> dict[str, dict[str, Any]]:
    """The search ranges of a method: {option: {log: [low, high]} or {choices: [...]}}."""
    method, _, settings = words.partition(" ")
    table = load_method(method).search
    for variant in (settings, ""):  # a variant without its own ranges uses its method's
        if variant in table:
            return {option: dict(among) for option, among in table[variant].items()}
    raise UserError(f"method {method}: its class has no search ranges; give it a `search`, see docs/adding-a-method.md")


def suggested(trial: Any, ranges: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A value per option, suggested by the trial; floats are rounded to three significant digits."""
    values = {}
    for option, among in ranges.items():
        if "choices" in among:
            values[option] = trial.suggest_categorical(option, among["choices"])
        else:
            values[option] = float(f"{trial.suggest_float(option, *among['log'], log=True):.3g}")
    return values


def tune(
    words: str, budget: int, output: Path, presets: Path | None = None, backbone: str = miniature.NAME
) -> dict[str, Any]:
    """Complete `budget` trials, and write the best one into the backbone's preset. Returns its provenance.

    words: a method, optionally followed by the settings of a variant ("dcscore variant=ewc"); presets: the folder of the
    presets, by default the package's; backbone: an embedded one.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("tune: optuna is not installed; pip install 'cpbench[tune]'") from None
    from cpbench.running.prepare import prepare
    from cpbench.running.runner import execute

    ranges = search_ranges(words)
    method, *settings = words.split()
    fixed_options, _ = config.split_settings(config.parse_settings(tuple(settings)))
    base = {"method": method, "sequence": SEQUENCE, "backbone": backbone, "output": output / "runs"}
    base |= {"evaluation": {"rows": (6,), "held_out": 0}}
    run_config, method_class, options = config.resolve(base | {"options": fixed_options})
    prepare_folder(output)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_of(words, budget, output, identity(prepare(run_config, method_class, options).facts, ranges))
    if not study.trials:
        study.enqueue_trial({option: getattr(options, option) for option in ranges})
    go_on(study)
    complete = optuna.trial.TrialState.COMPLETE

    def objective(trial: Any) -> float:
        trial_options = fixed_options | suggested(trial, ranges)
        run = execute(*config.resolve(base | {"options": trial_options}))
        value = trial_score(tables.read_scores(RunFolder(run.folder).scores), run.concepts)
        trial.set_user_attr("hash", run.folder.parent.name)
        # a trial's own number counts those that were stopped as well
        before = len(study.get_trials(states=(complete,)))
        say(f"{words}: trial {before + 1} of {budget}, {trial_options}: {number(value, 4)}")
        return value

    while (remaining := budget - len(study.get_trials(states=(complete,)))) > 0:
        # a learning rate that diverges is a failed trial
        study.optimize(objective, n_trials=remaining, catch=(UserError,))
        interrupted = study.user_attrs.get(INTERRUPTED, [])
        failed = [t for t in study.get_trials(states=(optuna.trial.TrialState.FAIL,)) if t.number not in interrupted]
        if len(failed) > 2 * budget:
            raise UserError(f"tune {words}: {len(failed)} trials failed; narrow its ranges")
    first, best = study.get_trials(states=(complete,))[0], study.best_trial
    provenance = {
        "score": round(best.value, 4),
        "first": round(first.value, 4),
        "trials": budget,
        "searched": sorted(ranges),
        "sequence": SEQUENCE,
        "seed": 0,
        "run": best.user_attrs["hash"],
        "commit": machine.commit(),
    }
    best_options = {option: float(f"{v:.3g}") if isinstance(v, float) else v for option, v in best.params.items()}
    folder = presets or Path(str(baselines_folder() / "presets"))
    with FileLock(output / ".presets.lock"):  # another method's search may end at the same time
        write_preset(folder / f"{backbone}.yaml", words, best_options, provenance)
    return provenance


def identity(facts: dict[str, Any], ranges: dict[str, dict[str, Any]]) -> str:
    """A hash of everything a trial's score depends on, except the searched values: the facts of a run, and the ranges."""
    fixed = {option: value for option, value in facts["options"].items() if option not in ranges}
    return short_hash(facts | {"options": fixed, "ranges": ranges})


def study_of(words: str, budget: int, output: Path, identity: str) -> Any:
    """The Optuna study of a method: a new one, or the existing one of the same `identity`.

    Several processes may search different methods at once.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        study_name=f"{words} {identity}",
        direction="maximize",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(output / "studies.log"))),
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=max(4, budget // 3)),
        load_if_exists=True,
    )


def go_on(study: Any) -> None:
    """Go on with a study whose process was stopped: as if it had not been.

    A trial that was at work is tried again with its values, which resumes its run, before new ones are proposed; and the
    sampler makes the draws that it has made before, so that it does not propose their values once more.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.set_user_attr(INTERRUPTED, [*study.user_attrs.get(INTERRUPTED, []), trial.number])
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    for trial in study.trials:
        for option, distribution in trial.distributions.items():
            if option not in trial.system_attrs.get("fixed_params", {}):
                study.sampler.sample_independent(study, trial, option, distribution)


def write_preset(file: Path, words: str, values: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Put the values into the preset of a method or variant; values that were not searched are kept."""
    table = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    table[words] = {**table.get(words, {}), **values, PROVENANCE: provenance}
    yaml_format = {"sort_keys": False, "allow_unicode": True, "width": 120, "default_flow_style": None}
    more = OVER_THE_MINIATURES if file.stem == miniature.FLOW else ""
    header = HEADER.format(backbone=file.stem, provenance=PROVENANCE, more=more)
    text = "\n".join(yaml.dump({k: entry}, Dumper=_Plain, **yaml_format) for k, entry in table.items())
    write_atomically(file, (header + text).encode())


class _Plain(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
