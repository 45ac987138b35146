"""Identity at equal text: the best point of a line through strengths, by brute force, and strengths of what was learned."""

from collections.abc import Callable
from pathlib import Path

import learners
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import MakeTask, learn

from cpbench.backbones.backbone import Backbone
from cpbench.metrics import equal_text
from cpbench.registry import load_method

UNIT = st.floats(0, 1, width=32)
Curves = st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=6)


def along(points: list[tuple[float, float]], steps: int = 2000) -> np.ndarray:
    """Many points (T, D) of the line, its corners among them."""
    out = [np.array(points)]
    for a, b in zip(points, points[1:], strict=False):
        u = np.linspace(0, 1, steps)[:, None]
        out.append((1 - u) * np.array(a) + u * np.array(b))
    return np.concatenate(out)


@given(Curves, UNIT)
def test_the_best_point_above_a_threshold_by_brute_force(points: list[tuple[float, float]], least: float) -> None:
    T, D = zip(*points, strict=True)
    dense = along(points)
    reached = dense[dense[:, 0] >= least]
    found = equal_text.identity_at(T, D, least)
    if max(T) < least:
        assert np.isnan(found)
        return
    # the walk misses at most one of its steps
    assert found == pytest.approx(reached[:, 1].max(), abs=2e-3) and found >= reached[:, 1].max() - 1e-9


@given(Curves)
def test_the_area_is_the_mean_of_the_best_points(points: list[tuple[float, float]]) -> None:
    T, D = zip(*points, strict=True)
    q = (np.arange(4000) + 0.5) / 4000 * 0.2 + 0.8
    f = np.array([equal_text.identity_at(T, D, share * 0.7) for share in q])
    f[np.isnan(f)] = 0.25
    assert equal_text.area(T, D, 0.7, 0.25) == pytest.approx(f.mean(), abs=3e-3)


def test_by_hand() -> None:
    """T falls from 1 to 0.8 while D rises from 0.2 to 0.6: at 0.9 it is 0.4, and at 0.95 it is 0.3."""
    T, D = [1.0, 0.8], [0.2, 0.6]
    assert equal_text.identity_at(T, D, 0.9) == pytest.approx(0.4)
    assert equal_text.identity_at(T, D, 0.95) == pytest.approx(0.3)
    assert equal_text.area(T, D, 1.0, 0.0) == pytest.approx(0.4)
    assert np.isnan(equal_text.identity_at(T, D, 1.01))


def table() -> pd.DataFrame:
    """Two concepts, strengths 0.5 and 1 (as it is); the second never says what its prompt says."""
    lines = []
    for concept, floor, cells in (
        ("dog", (0.8, 0.2), {0.5: (0.8, 0.4), 1.0: (0.6, 0.7)}),
        ("vase", (0.5, 0.1), {0.5: (0.1, 0.9), 1.0: (0.1, 0.8)}),
    ):
        lines += [(0, "cell", concept, "p", 0, m, v) for m, v in zip(("clip_t", "dino"), floor, strict=True)]
        for s, values in cells.items():
            kind, name = ("cell", concept) if s == 1 else ("scaled", f"{concept}@{s:g}")
            lines += [
                (2, kind, name, "p", k, m, v + d)
                for m, v in zip(("clip_t", "dino"), values, strict=True)
                for k, d in ((0, 0.05), (1, -0.05))
            ]
    return pd.DataFrame(lines, columns=["row", "kind", "concept", "prompt", "index", "metric", "value"])


def test_a_runs_figures_from_its_table() -> None:
    figures = equal_text.by_concept(table(), ["dog", "vase"])
    # dog: T from 0.8 to 0.6, D from 0.4 to 0.7; 90 % of 0.8 is 0.72, 0.4 of the way
    assert figures["dino_at_90"]["dog"] == pytest.approx(0.4 + 0.4 * 0.3)
    assert figures["dino_at_95"]["dog"] == pytest.approx(0.4 + 0.2 * 0.3)
    assert np.isnan(figures["dino_at_90"]["vase"]) and figures["dino_area"]["vase"] == pytest.approx(0.1)
    means = equal_text.means(figures)
    assert means["dino_at_90"] == pytest.approx(0.52) and means["dino_area"] < figures["dino_area"]["dog"]
    assert equal_text.by_concept(table()[lambda t: t["kind"] == "cell"], ["dog", "vase"]) == {}


# Strengths


@pytest.mark.parametrize("name", ["seqlora", "clora", "mergeinit", "customdiffusion", "mergelora"])
@pytest.mark.parametrize("strength", [0.5, 1.25])
def test_every_changed_weight_is_between_or_beyond(
    tiny: Backbone, make_task: MakeTask, name: str, strength: float
) -> None:
    kind = load_method(name)
    options = {"prior_pictures": 0, "initializer": "rare"} if name == "customdiffusion" else {}
    learned = learn(kind, tiny, make_task, 1, None, **options)
    method = kind(
        kind.Options(**{k: v for k, v in (learners.SMALL | options).items() if k in kind.Options.model_fields})
    )
    whole = learners.change(tiny, method, learned.state, ("dog",))
    names = learners.layers(tiny)
    pristine = {n: tiny.denoiser.get_submodule(n).weight.detach().double().numpy() for n in names}
    with tiny.installed(method, learned.state, ("dog",)), torch.no_grad():
        before = tiny.installed_hash()
        words = {k: v.clone() for k, v in tiny.token_embeddings.items()}
        assert tiny.scale_changes(strength)
        assert tiny.installed_hash() != before  # pictures of another strength are others in the cache
        assert all(torch.equal(words[k], v) for k, v in tiny.token_embeddings.items())
        for n in names:
            layer, width = tiny.denoiser.get_submodule(n), pristine[n].shape[1]
            answer = layer(torch.eye(width)) - layer(torch.zeros(1, width))
            np.testing.assert_allclose(answer.double().numpy().T - pristine[n], strength * whole[n], atol=2e-6)


@pytest.mark.parametrize("name", ["base", "textualinversion"])
def test_without_a_changed_weight_there_is_one_strength(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    kind = load_method(name)
    learned = learn(kind, tiny, make_task, 1, None)
    with tiny.installed(kind(), learned.state, ("dog",)):
        assert not tiny.scale_changes(0.5)


def test_a_run_with_strengths_has_them_in_its_table_its_report_and_a_leaderboard(
    short_run: Callable[..., Path], call: Callable
) -> None:
    folder = short_run("seqlora", evaluation={"adapter_scales": [0.5, 1.25]})
    scores = pd.read_csv(folder / "scores.csv")
    cells = scores[scores["kind"] == "scaled"]
    assert set(cells["concept"]) == {"dog@0.5", "dog@1.25", "vase@0.5", "vase@1.25"}
    assert set(cells["row"]) == {2} and set(cells["metric"]) == {"clip_i", "clip_t", "dino"}
    code, _, said = call("report", folder)
    page = (folder / "report.html").read_text()
    assert code == 0 and "Identity at equal text" in page, said
    code, _, said = call("leaderboard", folder.parents[3], "--output", folder / "board")
    board = (folder / "board" / "leaderboard.md").read_text()
    assert code == 0 and "DINO at 90 % of CLIP-T" in board, said


def test_without_another_strength_it_is_not_defined() -> None:
    """As for a method that changes no weight: its cells at other strengths are empty. A name without a strength is none."""
    lines = [(1, "cell", "dog", "p", 0, metric, 0.5) for metric in ("dino", "clip_t")]
    lines += [(1, "scaled", f"dog@{s}", "p", 0, metric, np.nan) for s in (0.5, 1.5) for metric in ("dino", "clip_t")]
    lines += [(1, "scaled", name, "p", 0, "dino", 0.5) for name in ("dog@abc", "dog")]
    columns = ["row", "kind", "concept", "prompt", "index", "metric", "value"]
    scores = pd.DataFrame(lines, columns=columns)
    assert equal_text.strengths_of(scores) == [0.5, 1.5]
    assert equal_text.curves(scores, ["dog"]) == {} == equal_text.by_concept(scores, ["dog"])
