"""The leaderboard: one row a (sequence, backbone, judges, method, settings), from finished runs, as Markdown and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cpbench import report, results
from cpbench.errors import UserError, near
from cpbench.report import FIGURES

GROUP = ["sequence", "backbone", "pictures", "judges"]  # only rows that agree in these can be compared
KEYS = [*GROUP, "method", "hash"]


def finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every finished run below `folder`, by path."""
    found = []
    for file in sorted(folder.glob("**/run.json")):
        record = results.read_json(file)
        if isinstance(record, dict) and record.get("status") == "finished" and record.get("schema") == results.SCHEMA:
            found.append((file.parent, record))
    return found


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
    """One row a run: its keys, the summary figures by metric, and its cost."""
    out = []
    for path, record in finished_runs(folder):
        row: dict[str, Any] = {
            "sequence": f"{record['sequence']['name']} v{record['sequence']['version']}",
            "backbone": Path(record["config"]["backbone"]).name,
            "pictures": record["pictures"],
            "judges": judges_of(record),
            "method": name_of(record)
            + (" (own file)" if str(record["config"].get("method")).endswith(".py") else "")
            + ("*" if record["sees_earlier_data"] else ""),
            "hash": record["hash"],
            "seed": record["config"]["seed"],
            "order": record["config"]["order"],
            "folder": path,
            "concepts": record["sequence"].get("concepts", []),
        }
        for metric, values in record["summary"].items():
            row |= {f"{metric}_{k}": values[k] for k in FIGURES}
        costs = list(record["costs"].values())
        row["carried_kB"] = max((sum(c.get("carried_bytes", {}).values()) for c in costs), default=0) / 1000
        row["trainable_parameters"] = max((c.get("trainable_parameters", 0) for c in costs), default=0)
        row["learning_unet_evaluations"] = sum(c.get("learning_unet_evaluations", 0) for c in costs)
        row["learning_seconds"] = sum(c.get("learning_seconds", 0) for c in costs)
        out.append(row)
    table = pd.DataFrame(out)
    if table.empty:
        return table
    # a reference run gives way to one of the reader's own of that name, whatever their hashes
    run = [k for k in (*KEYS, "seed", "order") if k != "hash"]
    theirs = pd.Series(["reference" in path.relative_to(folder).parts for path in table["folder"]])
    own = table[~theirs].set_index(run).index
    stale = theirs & table.set_index(run).index.isin(own)
    return table[~stale].drop_duplicates([*run, "hash"], keep="last").reset_index(drop=True)


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
        if not shown:
            continue
        concepts = shown[0]["concepts"]
        which = concept if concept in concepts else concepts[0]
        name = f"methods-{key[0].replace(' ', '-')}-{key[1]}-{key[2]}-{which}.png"
        if name in made.values():  # the same but for its judges
            name = name.replace(".png", f"-{results.hash8(key[3])}.png")
        names = [(r.name[KEYS.index("method")], r["folder"]) for r in shown]
        report.method_grid(names, concepts, which, output / name)
        made[key] = name
    return made


def markdown(table: pd.DataFrame, pictures: dict[tuple, str] | None = None) -> str:
    """One table for each group of rows that can be compared, and below it the picture of that name, if there is one."""
    lines = ["# Leaderboard", ""]
    for key, part in table.groupby(GROUP, sort=False):
        sequence, backbone, kind, judges = key
        source = "drawn stand-ins" if kind == "drawn" else "photographs"
        lines += [f"## {sequence} on {backbone} ({source})", "", f"Judges: {judges}.", ""]
        lines += [
            "| method | runs | DINO final | plasticity | forgetting | retention | CLIP-I final | CLIP-T final | carried kB | learning s | UNet evaluations | settings |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
        for _, r in part.iterrows():
            figures = [r[f"dino_{k}"] for k in ("final_average", "plasticity", "forgetting", "normalised_retention")]
            figures += [r["clip_i_final_average"], r["clip_t_final_average"]]
            shown = " | ".join(map(cell, figures))
            lines.append(
                f"| {r['method']} | {r['runs']} | {shown} | {cell(r['carried_kB'], 0)} | {cell(r['learning_seconds'], 0)} | {cell(r['learning_unet_evaluations'], 0)} | {r['hash']} |"
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
