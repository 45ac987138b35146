"""Pictures of a run side by side."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cpbench.files import write_atomically
from cpbench.records.folder import RunFolder, picture_name

MOST_COLUMNS = 15


def retention_grid(folder: Path, concepts: list[str], target: Path, prompt: int = 0) -> None:
    """Write a picture in which each row is a concept and each column the model after one task, all of one prompt and noise.

    The leftmost column has the real pictures. A frame marks the task in which the concept was learned; the cells to its
    right show how well it was kept. Rows of the matrix that were left out (evaluation.rows) have no column, or one picture.
    """
    rows = [(c, cells(folder, concepts, c, prompt), j + 2) for j, c in enumerate(concepts)]
    write_sheet(["real", *columns(len(concepts))], rows, target)


def method_grid(runs: list[tuple[str, Path]], concepts: list[str], concept: str, target: Path, prompt: int = 0) -> None:
    """The same for one concept: each row is a run, (its name, its folder), from the task in which the concept was learned."""
    t = concepts.index(concept) + 1
    keep = [0, 1, *range(t + 1, len(concepts) + 2)]
    heads = ["real", *columns(len(concepts))]
    rows = []
    for name, folder in runs:
        files = cells(folder, concepts, concept, prompt)
        rows.append((name, [files[k] for k in keep], 2))
    write_sheet([heads[k] for k in keep], rows, target)


def columns(tasks: int) -> list[str]:
    return ["untouched", *(f"task {t}" for t in range(1, tasks + 1))]


def cells(folder: Path, concepts: list[str], concept: str, prompt: int) -> list[Path | None]:
    """Files of a concept's row: the real picture, the untouched model's, then each task's from its own on."""
    learned = concepts.index(concept) + 1
    rows = [0, *range(learned, len(concepts) + 1)]
    run = RunFolder(folder)
    pictures = {t: run.task(t).pictures(concept) / picture_name(prompt, 0) for t in rows}
    return [run.task(0).real(concept), *(pictures.get(t) for t in range(len(concepts) + 1))]


def write_sheet(heads: list[str], rows: list[tuple[str, list[Path | None], int]], target: Path) -> None:
    """Rows of (name, files, framed column) as one PNG; a cell without a file stays empty.

    A column that is empty while one to the right is not was left out on purpose, and is left out here.
    """
    filled = [k for k in range(len(heads)) if any(files[k] and files[k].exists() for _, files, _ in rows)]
    columns_used = [k for k in range(len(heads)) if k in filled or k > max(filled, default=0)]
    heads = [heads[k] for k in columns_used]
    rows = [
        (name, [files[k] for k in columns_used], columns_used.index(framed) if framed in columns_used else -1)
        for name, files, framed in rows
    ]
    size, gap, top, font = 96, 4, 34, ImageFont.load_default(13)
    label = max(118, *(int(font.getlength(name)) + 12 for name, _, _ in rows))
    sheet = Image.new("RGB", (label + len(heads) * (size + gap), top + len(rows) * (size + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, head in enumerate(heads):
        pen.text((label + k * (size + gap) + size / 2, top / 2), head, fill="black", font=font, anchor="mm")
    for j, (name, files, framed) in enumerate(rows):
        y = top + j * (size + gap)
        pen.text((4, y + size / 2), name, fill="black", font=font, anchor="lm")
        for k, file in enumerate(files):
            if file is None or not file.exists():
                continue
            x, picture = label + k * (size + gap), Image.open(file)
            whole = Image.Resampling.NEAREST if size % picture.width == 0 else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((size, size), whole), (x, y))
            if k == framed:
                pen.rectangle((x - 2, y - 2, x + size + 1, y + size + 1), outline=(210, 40, 40), width=3)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_atomically(target, buffer.getvalue())
