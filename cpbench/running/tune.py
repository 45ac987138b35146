"""Settings of a method, searched for on the validation sequence only, the same number of trials for every method.

A trial is a run over `miniature-val6` of which row 0 and the last row are drawn. Its score, fixed in advance, weighs what
was learned and kept against what became of the prompts; with R a retention matrix by DINO, C its ceilings and S that of
CLIP-T, over concepts j,

    score = mean_j (R[T][j] - R[0][j]) / (C_j - R[0][j]) * min(1, S[T][j] / S[0][j])

The first trial is the preset as it stands (or the defaults), the others are Optuna's, by a seeded sampler, over the
ranges that the method's class says (`Method.search`). A trial's run is resumed like any other, and a study too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock

from cpbench import config
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
HEADER = """# Settings on the miniature, written by `cpbench tune`, which searches on miniature-val6 and on nothing else. {} says of
# each method how many trials there were, of which options, how the best one and the first one, the values before the
# search, scored, and at which commit; options that are not among those searched were set by hand, as were all values of a
# method without it.

"""


def trial_score(scores: pd.DataFrame, concepts: list[str]) -> float:
    """A trial's score from its measurements; NaN where a cell is not defined."""
    tables = matrices.matrices(scores, concepts)
    R, S = tables["dino"].to_numpy(), tables["clip_t"].to_numpy()
    C = np.array(reference_row(scores, "real", "dino", concepts))
    return float(np.mean((R[-1] - R[0]) / (C - R[0]) * np.minimum(1.0, S[-1] / S[0])))


def search_ranges(words: str) -> dict[str, dict[str, Any]]:
    """What may be searched for a method: {option: {log: [low, high]} or {choices: [...]}}."""
    method, _, settings = words.partition(" ")
    table = load_method(method).search
    for variant in (settings, ""):  # a variant without ranges of its own has its method's
        if variant in table:
            return {option: dict(among) for option, among in table[variant].items()}
    raise UserError(
        f"method {method}: says no ranges to search; give its class a `search`, see docs/adding-a-method.md"
    )


def suggested(trial: Any, ranges: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A value for every option, asked of the trial; floats with three digits, as one writes them."""
    values = {}
    for option, among in ranges.items():
        if "choices" in among:
            values[option] = trial.suggest_categorical(option, among["choices"])
        else:
            values[option] = float(f"{trial.suggest_float(option, *among['log'], log=True):.3g}")
    return values


def tune(words: str, budget: int, output: Path, presets: Path | None = None) -> dict[str, Any]:
    """Trials until there are `budget` of them, then the best into the miniature's preset. Returns its provenance.

    words: a method, with settings that make it a variant behind it ("dcscore variant=ewc"); presets: the folder of the
    presets, the package's own if None.
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
    base = {"method": method, "sequence": SEQUENCE, "output": output / "runs", "rows": (6,)}
    run_config, method_class, options = config.resolve(base | {"options": fixed_options})
    prepare_folder(output)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_of(words, budget, output, identity(prepare(run_config, method_class, options).facts, ranges))
    if not study.trials:
        study.enqueue_trial({option: getattr(options, option) for option in ranges})

    def objective(trial: Any) -> float:
        trial_options = fixed_options | suggested(trial, ranges)
        run = execute(*config.resolve(base | {"options": trial_options}))
        value = trial_score(tables.read_scores(RunFolder(run.folder).scores), run.concepts)
        trial.set_user_attr("hash", run.folder.parent.name)
        say(f"{words}: trial {trial.number + 1} of {budget}, {trial_options}: {number(value, 4)}")
        return value

    complete = optuna.trial.TrialState.COMPLETE
    while (remaining := budget - len(study.get_trials(states=(complete,)))) > 0:
        study.optimize(objective, n_trials=remaining, catch=(UserError,))  # a rate that diverges is a trial that failed
        failed = [t for t in study.trials if t.state == optuna.trial.TrialState.FAIL]
        if len(failed) > 2 * budget:
            raise UserError(f"tune {words}: {len(failed)} trials failed; mend its ranges")
    best = study.best_trial
    provenance = {
        "score": round(best.value, 4),
        "first": round(study.trials[0].value or float("nan"), 4),
        "trials": budget,
        "searched": sorted(ranges),
        "sequence": SEQUENCE,
        "seed": 0,
        "run": best.user_attrs["hash"],
        "commit": machine.commit(),
    }
    best_options = {option: float(f"{v:.3g}") if isinstance(v, float) else v for option, v in best.params.items()}
    folder = presets or Path(str(baselines_folder() / "presets"))
    with FileLock(output / ".presets.lock"):  # another method's search may end now
        write_preset(folder / "miniature.yaml", words, best_options, provenance)
    return provenance


def identity(facts: dict[str, Any], ranges: dict[str, dict[str, Any]]) -> str:
    """Eight digits of all that moves a trial's score but the values that are searched: the facts of a run, and the ranges."""
    fixed = {option: value for option, value in facts["options"].items() if option not in ranges}
    return short_hash(facts | {"options": fixed, "ranges": ranges})


def study_of(words: str, budget: int, output: Path, identity: str) -> Any:
    """The Optuna study of a method, begun, or gone on with if its trials are of the same `identity` as those to come.

    Several methods may be searched at once, by several processes.
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


def write_preset(file: Path, words: str, values: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Put the values into the preset of a method (or of its variant), beside those that were not searched for."""
    table = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    table[words] = {**table.get(words, {}), **values, PROVENANCE: provenance}
    yaml_format = {"sort_keys": False, "allow_unicode": True, "width": 120, "default_flow_style": None}
    text = "\n".join(yaml.dump({k: entry}, Dumper=_Plain, **yaml_format) for k, entry in table.items())
    write_atomically(file, (HEADER.format(PROVENANCE) + text).encode())


class _Plain(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
