"""Training curves: what is read of them, and that a picture comes out of whatever was logged."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cpbench.records import curves


def write(folder: Path, t: int, rows: list[dict[str, float | str]]) -> None:
    file = folder / f"task-{t:02d}" / "curve.csv"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(file, index=False)


def test_every_figure_of_every_task_is_read(tmp_path: Path) -> None:
    """A penalty that is there from task 2 on, and a second phase with a figure of its own."""
    write(tmp_path, 1, [{"phase": "train", "step": k, "loss": 1.0 / (k + 1)} for k in range(4)])
    write(
        tmp_path,
        2,
        [{"phase": "train", "step": k, "loss": 0.5, "ewc": 0.1 * k} for k in range(4)]
        + [{"phase": "fisher", "step": 0, "cosine": 0.9}],
    )
    found, damaged = curves.read(tmp_path, 3)
    assert damaged == []
    counted = found.groupby(["task", "phase", "figure"]).size().to_dict()
    assert counted == {
        (1, "train", "loss"): 4,
        (2, "train", "loss"): 4,
        (2, "train", "ewc"): 4,
        (2, "fisher", "cosine"): 1,
    }
    assert list(found[(found.task == 2) & (found.figure == "ewc")]["value"]) == [0.1 * k for k in range(4)]
    curves.plot(tmp_path, ["dog", "cat", "vase"], tmp_path / "curves.png")
    first = np.asarray(Image.open(tmp_path / "curves.png").convert("L")).astype(int)
    write(tmp_path / "other", 1, [{"phase": "train", "step": k, "loss": 1.0 / (k + 1)} for k in range(4)])
    curves.plot(tmp_path / "other", ["dog", "cat", "vase"], tmp_path / "one.png")
    fewer = np.asarray(Image.open(tmp_path / "one.png").convert("L")).astype(int)
    assert (first < 128).sum() > 2 * (fewer < 128).sum() > 0  # three plots of four lines, and one of one
    assert curves.read(tmp_path / "none", 1)[0].empty
    (tmp_path / "task-02" / "curve.csv").write_bytes(b"\xff\xfe\0")
    found, damaged = curves.read(tmp_path, 3)
    assert damaged == [2] and set(found["task"]) == {1}


def test_nothing_is_written_where_nothing_was_learned(tmp_path: Path) -> None:
    curves.plot(tmp_path, ["dog"], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_smoothing_keeps_length_and_mean_of_a_line() -> None:
    line = pd.Series(np.linspace(0, 1, 200))
    smooth = curves.smoothed(line)
    assert len(smooth) == 200 and abs(smooth.mean() - line.mean()) < 1e-2
    np.testing.assert_allclose(curves.smoothed(line[:10]), line[:10])  # a short one as it is


def test_a_number_too_large_to_draw_is_left_out(tmp_path: Path) -> None:
    """Matplotlib has no ticks for it."""
    (tmp_path / "task-01").mkdir()
    (tmp_path / "task-01" / "curve.csv").write_bytes(b"phase,step,loss\ntrain,0,1e308\ntrain,1,0.5\ntrain,1e308,2\n")
    curves.plot(tmp_path, ["dog"], tmp_path / "curves.png")
    found, damaged = curves.read(tmp_path, 1)
    assert list(found["value"]) == [0.5] and damaged == [] and (tmp_path / "curves.png").is_file()
