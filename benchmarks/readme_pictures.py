"""README's pictures, with labels that are readable where GitHub shows them 830 pixels wide.

    python benchmarks/readme_pictures.py grid RUN/grid.png dreambench10 docs/seqlora-dreambench10.webp
    python benchmarks/readme_pictures.py report RUN/report.html docs/report.webp

`grid` lays the pictures of a run's grid.png out again with larger labels. `report` takes a screenshot of a run's report in
Chromium, which must be on the path, with the numbers that README explains.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import browser  # noqa: E402

# grid.png, as cpbench/records/grid.py lays it out: width of the names, height of the heads, side and gap of the pictures
NAMES, HEADS, SIDE, GAP = 118, 34, 96, 4
LABELS = 132  # width of the names here
INK, FRAME = "black", (210, 40, 40)
WIDTH, SCALE, MARGIN = 830, 1.5, 34
# what gets a number: a CSS selector; the number stands left of what it finds, at a row's end right of it
MARKS = (
    "p.lead",
    "table.summary",
    "table.lapse td.learned",
    "table.lapse tbody tr:first-child td:last-child",
    "table.heat tbody",
)
LEFT_OUT = (
    "nav, dl.facts, figcaption, .summary .words, [aria-labelledby=retention] > :not(h2, .heats), .heats > :nth-child(3)"
)
BADGE = (
    "position:absolute;width:26px;height:26px;border-radius:13px;background:#b3261e;color:white;font:bold 15px/26px sans-serif;"
    "text-align:center;z-index:9"
)


def grid(source: Path, concepts: list[str], target: Path) -> None:
    """The grid of a run over these concepts: a row per concept, a column per task, as WebP."""
    sheet = Image.open(source).convert("RGB")
    heads = ["real", "untouched", *(f"task {t}" for t in range(1, len(concepts) + 1))]
    font = ImageFont.load_default(20)
    made = Image.new("RGB", (LABELS + len(heads) * (SIDE + GAP), HEADS + len(concepts) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(made)
    for k, head in enumerate(heads):
        pen.text((LABELS + k * (SIDE + GAP) + SIDE / 2, HEADS / 2), head, fill=INK, font=font, anchor="mm")
    for j, concept in enumerate(concepts):
        y = HEADS + j * (SIDE + GAP)
        name = concept.replace("_", "\n")
        pen.multiline_text((4, y + SIDE / 2), name, fill=INK, font=font, anchor="lm", spacing=2)
        for k in range(len(heads)):
            if 2 <= k < j + 2:  # not learned yet
                continue
            x, old = LABELS + k * (SIDE + GAP), NAMES + k * (SIDE + GAP)
            made.paste(sheet.crop((old, y, old + SIDE, y + SIDE)), (x, y))
            if k == j + 2:
                pen.rectangle((x - 2, y - 2, x + SIDE + 1, y + SIDE + 1), outline=FRAME, width=3)
    made.save(target, quality=85, method=6)


def report(source: Path, target: Path) -> None:
    """The report's first screens with numbers beside what README explains, without the words that explain the same."""
    with browser.browser() as page:
        page.open(source, WIDTH)
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=900, deviceScaleFactor=SCALE, mobile=False)
        page.evaluate(f"document.querySelectorAll({LEFT_OUT!r}).forEach(e => e.remove())")
        page.evaluate(f"document.body.style.paddingLeft = '{MARGIN}px'")
        for number, mark in enumerate(MARKS, 1):
            left = "r.right + 4" if "last-child" in mark else "r.left - 30"
            page.evaluate(
                f"(() => {{ const r = document.querySelector({mark!r}).getBoundingClientRect(), b = document.createElement('div');"
                f"b.textContent = '{number}'; b.style.cssText = '{BADGE}';"
                f"b.style.left = ({left} + scrollX) + 'px'; b.style.top = (r.top + scrollY) + 'px';"
                f"document.body.append(b) }})()"
            )
        bottom = page.evaluate(
            "document.querySelector('#forgetting').closest('section').getBoundingClientRect().top + scrollY"
        )
        with tempfile.TemporaryDirectory() as folder:
            page.screenshot(Path(folder) / "page.png")
            shot = Image.open(io.BytesIO((Path(folder) / "page.png").read_bytes())).convert("RGB")
    shot.crop((0, 0, shot.width, int(bottom * SCALE))).save(target, quality=80, method=6)


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "grid":
        sequence = yaml.safe_load((ROOT / "tasks" / f"{sys.argv[3]}.yaml").read_text(encoding="utf-8"))
        concepts = [concept["name"] for concept in sequence["concepts"]]
        grid(Path(sys.argv[2]), concepts, Path(sys.argv[4]))
    elif len(sys.argv) == 4 and sys.argv[1] == "report":
        report(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(__doc__)
    print(f"wrote {sys.argv[-1]}")


if __name__ == "__main__":
    main()
