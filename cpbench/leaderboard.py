"""The leaderboard: one row a (sequence, backbone, judges, method, settings), from finished runs, as Markdown and CSV."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from cpbench import report, results
from cpbench.errors import UserError, near, quoted
from cpbench.report import FIGURES
from cpbench.results import plain
from cpbench.sequences import FILE_NAME

GROUP = ["sequence", "backbone", "pictures", "judges"]  # only rows that agree in these can be compared
KEYS = [*GROUP, "method", "hash"]
MOST_CONCEPTS = 500  # of a sequence in a record
MOST_SAID = 2000  # characters of a name, of a method with all its settings too


def finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every finished run below `folder`, by path. What cannot be read is named in a line, and left out."""
    found = []
    for file in sorted(folder.glob("**/run.json")):
        record = results.read_json(file)
        if not isinstance(record, dict) or record.get("schema") != results.SCHEMA:
            skip(file.parent, f"its run.json is damaged, or not of schema {results.SCHEMA}")
        elif record.get("status") == "finished":
            found.append((file.parent, record))
    return found


def skip(folder: Path, reason: str) -> None:
    line = f"left out {folder}: {reason}; run it again, or remove it"
    print("".join(c if c.isprintable() else " " for c in line))


def name_of(record: dict[str, Any]) -> str:
    """The method with the settings that are not its usual ones: "raretoken adapter=lora"."""
    chosen = {f"evaluation.{k}": v for k, v in record["config"].get("evaluation", {}).items()}
    chosen = {k: v for k, v in chosen.items() if v is not None and k != "evaluation.batch_size"}
    settings = [
        f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in (record.get("changed", {}) | chosen).items()
    ]
    return " ".join([record["facts"]["method"], *settings])


def judges_of(record: dict[str, Any]) -> str:
    """The judges by name, each with the beginning of its weights' hash."""
    return ", ".join(f"{it['model']} [{it['weights_sha256'][:8]}]" for _, it in sorted(record["judges"].items()))


def rows(folder: Path) -> pd.DataFrame:
    """One row a run: its keys, the summary figures by metric, and its cost. Records of other content are left out."""
    out = []
    for path, record in finished_runs(folder):
        try:
            out.append(row(path, record))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            skip(path, f"its run.json is not as cpbench writes it ({type(error).__name__}: {error})"[:400])
    table = pd.DataFrame(out)
    if table.empty:
        return table
    # a reference run gives way to one of the reader's own of that name, whatever their hashes
    run = [k for k in (*KEYS, "seed", "order") if k != "hash"]
    theirs = pd.Series(["reference" in path.relative_to(folder).parts for path in table["folder"]])
    own = table[~theirs].set_index(run).index
    stale = theirs & table.set_index(run).index.isin(own)
    return table[~stale].drop_duplicates([*run, "hash"], keep="last").reset_index(drop=True)


def row(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Of one run. An error of some kind where the record, which may come from anybody, is not as the runner writes it."""
    sequence, config, costs = record["sequence"], record["config"], list(record["costs"].values())
    if record["pictures"] not in ("drawn", "photographs"):
        raise ValueError(f"pictures that are {quoted(record['pictures'])}")
    concepts = sequence.get("concepts", [])
    if not isinstance(concepts, list) or len(concepts) > MOST_CONCEPTS:
        raise ValueError("concepts that are no list")
    out: dict[str, Any] = {
        "sequence": f"{named(sequence['name'])} v{whole(sequence['version'])}",
        "backbone": Path(text(config["backbone"])).name,
        "pictures": record["pictures"],
        "judges": text(judges_of(record)),
        "method": text(name_of(record))
        + (" (own file)" if str(config.get("method")).endswith(".py") else "")
        + ("*" if record["sees_earlier_data"] else ""),
        "hash": text(record["hash"]),
        "seed": whole(config["seed"]),
        "order": whole(config["order"]),
        "folder": path,
        "concepts": [named(c) for c in concepts],
    }
    for metric in results.METRICS:  # those that are not there too, or the table might lack a column
        values = record["summary"].get(metric, {})
        out |= {f"{metric}_{k}": float("nan") if values.get(k) is None else number(values[k]) for k in FIGURES}
    out["carried_kB"] = max((number(sum(c.get("carried_bytes", {}).values())) for c in costs), default=0.0) / 1000
    out["trainable_parameters"] = max((number(c.get("trainable_parameters", 0)) for c in costs), default=0.0)
    out["learning_unet_evaluations"] = number(sum(c.get("learning_unet_evaluations", 0) for c in costs))
    out["learning_seconds"] = number(sum(c.get("learning_seconds", 0) for c in costs))
    return out


def number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{quoted(value)} is no number")
    return float(value)


def text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_SAID or not value.isprintable():
        raise ValueError(f"{quoted(value)} is no name")
    return value


def named(value: object) -> str:
    """The value, if it can be part of a file's name."""
    if not FILE_NAME.fullmatch(text(value)):
        raise ValueError(f"{quoted(value)} is no name")
    return str(value)


def whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{quoted(value)} is no whole number")
    return value


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and orders of runs with equal settings, and how many there are."""
    numbers = [c for c in runs.columns if c not in (*KEYS, "seed", "order", "folder", "concepts")]
    grouped = runs.groupby(KEYS, sort=True)
    table = grouped[numbers].mean().reset_index()
    table.insert(len(KEYS), "runs", grouped.size().to_numpy())
    order = [*GROUP, "dino_normalised_retention"]
    return table.sort_values(order, ascending=[True] * len(GROUP) + [False], kind="stable", na_position="last")


def cell(value: float, places: int = 3) -> str:
    return "-" if pd.isna(value) else f"{value:.{places}f}"


def grids(runs: pd.DataFrame, table: pd.DataFrame, concept: str | None, output: Path) -> dict[tuple, str]:
    """For each group of rows that can be compared a picture of one concept, one row a method, in the table's order.

    It is the first concept where `concept` is not one of the sequence's. Only runs with their pictures (of the first
    seed, in the file's order) are shown; where there are none, nothing is written. Returns the files' names.
    """
    made = {}
    for key, part in table.groupby(GROUP, sort=False):
        group = runs[(runs[GROUP] == pd.Series(key, GROUP)).all(axis=1) & (runs["order"] == 0)]
        first = group[group["seed"] == group["seed"].min()].set_index(KEYS)
        found = [first.loc[k] for k in part[KEYS].itertuples(index=False, name=None) if k in first.index]
        shown = [r for r in found if (r["folder"] / "task-00" / "pictures").is_dir()]
        if not shown or not shown[0]["concepts"]:
            continue
        concepts = shown[0]["concepts"]
        which = concept if concept in concepts else concepts[0]
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"methods-{key[0]}-{key[1]}-{key[2]}-{which}") + ".png"
        if name in made.values():  # the same but for its judges
            name = name.replace(".png", f"-{results.hash8(list(key))}.png")
        names = [(r.name[KEYS.index("method")], r["folder"]) for r in shown]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                report.method_grid(names, concepts, which, output / name)
        except (
            Exception
        ) as error:  # pictures from anybody, and decoders that answer broken ones with errors of any type
            skip(output / name, f"a picture of one of its runs cannot be read ({type(error).__name__}: {error})")
            continue
        made[key] = name
    return made


def markdown(table: pd.DataFrame, pictures: dict[tuple, str] | None = None) -> str:
    """One table for each group of rows that can be compared, and below it the picture of that name, if there is one."""
    lines = ["# Leaderboard", ""]
    for key, part in table.groupby(GROUP, sort=False):
        sequence, backbone, kind, judges = key
        source = "drawn stand-ins" if kind == "drawn" else "photographs"
        lines += [f"## {plain(sequence)} on {plain(backbone)} ({source})", "", f"Judges: {plain(judges)}.", ""]
        lines += [
            "| method | runs | DINO final | plasticity | forgetting | retention | CLIP-I final | CLIP-T final | carried kB | learning s | UNet evaluations | settings |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
        for _, r in part.iterrows():
            figures = [r[f"dino_{k}"] for k in ("final_average", "plasticity", "forgetting", "normalised_retention")]
            figures += [r["clip_i_final_average"], r["clip_t_final_average"]]
            shown = " | ".join(map(cell, figures))
            lines.append(
                f"| {plain(r['method'])} | {r['runs']} | {shown} | {cell(r['carried_kB'], 0)} | {cell(r['learning_seconds'], 0)} | {cell(r['learning_unet_evaluations'], 0)} | {plain(r['hash'])} |"
            )
        lines.append("")
        if key in (pictures or {}):
            lines += [f"![one concept after each task, one row a method]({pictures[key]})", ""]
    lines += [
        "DINO, CLIP-I: mean cosine of drawn and real pictures, all pairs; CLIP-T: plain cosine of picture and prompt.",
        "Forgetting: Chaudhry's (lower is better). Retention: what was gained over the untouched model and kept to the end,",
        "as a share of the gap to the real pictures (higher is better). Rows are ordered by it. Means over runs (seeds, orders).",
        "UNet evaluations: pictures that went through the UNet to learn the sequence (a step's way back not counted).",
        "Methods with * see earlier data.",
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path, output: Path, concept: str | None = None) -> None:
    """leaderboard.md, leaderboard.csv and the grids of methods in `output`. UserError if there is no finished run below `folder`."""
    if not folder.is_dir():
        raise UserError(f"results folder {folder}: there is none; `cpbench run` or `make bench` makes one")
    runs = rows(folder)
    if runs.empty:
        raise UserError(f"results folder {folder}: no finished run in it; `cpbench run` or `make bench` makes some")
    every = {name for names in runs["concepts"] for name in names}
    if concept is not None and concept not in every:
        raise near(concept, sorted(every), "concept")
    table = summarise(runs)
    results.prepare_folder(output)
    pictures = grids(runs, table, concept, output)
    results.write_atomically(output / "leaderboard.md", markdown(table, pictures).encode())
    results.write_atomically(output / "leaderboard.csv", table.to_csv(index=False, float_format="%.6f").encode())
    print(markdown(table, pictures))
    print(
        "wrote " + ", ".join(str(output / name) for name in ("leaderboard.md", "leaderboard.csv", *pictures.values()))
    )
