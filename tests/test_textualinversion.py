"""Textual Inversion: a noun of its own for every concept, and nothing else moves, ever."""

from collections.abc import Callable
from typing import Any

import learners
import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, same
from test_raretoken import changed, everything

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.textualinversion import Sphere, TextualInversion, TextualInversionOptions

FAST: dict[str, Any] = {"token_learning_rate": 1e-2, "steps": 3, "batch_size": 2}


def learn(*args: Any, **options: Any) -> Learned:
    return learners.learn(TextualInversion, *args, **FAST | options)


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(TextualInversion, **FAST)


def test_the_state_is_a_row_a_concept_and_never_rewritten(three: list[Learned]) -> None:
    for number, learned in enumerate(three, 1):
        expected = {f"token/{c}": (16,) for c in CONCEPTS[:number]}
        assert {k: tuple(v.shape) for k, v in learned.state.tensors.items()} == expected
        assert learned.evaluations == 3 * 2 and learned.trained == 16
    learners.rows_stay(three)


def test_nothing_but_the_row_moves(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    pristine = everything(tiny)
    learned = learn(tiny, make_task, 2, three[0].state, look=lambda phase, step: seen.append(everything(tiny)))
    assert changed(seen[0], seen[-1]) == {"text_encoder.word.v2"} and changed(pristine, seen[-1]) == set()
    assert torch.equal(seen[-1]["text_encoder.word.v2"], learned.state.tensors["token/vase"])


def test_the_row_starts_at_the_noun_and_moves_at_its_rate(tiny: Backbone, make_task: MakeTask) -> None:
    """Adam's first step is the rate, in every coordinate."""
    row = learn(tiny, make_task, 1, None, steps=1, token_learning_rate=1e-3).state.tensors["token/dog"]
    torch.testing.assert_close((row - tiny.word_embedding("dog")).abs(), torch.full((16,), 1e-3), rtol=0.02, atol=0)


def test_the_word_stands_where_the_noun_did(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [TextualInversion().phrase(c, "dog", three[2].state) for c in CONCEPTS] == ["<v1>", "<v2>", "<v3>"]
    prompts: set[str] = set()
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.update(texts) or encode(texts))
    learn(tiny, make_task, 2, three[0].state, steps=20, batch_size=1)
    assert prompts == {"a photo of a <v2>", "a picture of a <v2>", "a <v2>"}


def test_a_concept_is_learned_as_if_it_were_the_first(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    alone = learn(tiny, make_task, 2, None).state
    assert torch.equal(alone.tensors["token/vase"], three[1].state.tensors["token/vase"])


def test_each_prompt_gets_the_words_it_needs_so_that_its_pictures_never_change(
    tiny: Backbone, three: list[Learned]
) -> None:
    untouched, method = tiny.installed_hash(), TextualInversion()
    hashes = set()
    for learned in three:
        with tiny.installed(method, learned.state, ()):
            assert tiny.installed_hash() == untouched and not tiny.token_embeddings
        with tiny.installed(method, learned.state, ("dog",)):
            hashes.add(tiny.installed_hash())
            assert same(dict(tiny.token_embeddings), {"v1": learned.state.tensors["token/dog"]})
    assert len(hashes) == 1 and hashes != {untouched}
    state = three[2].state
    with tiny.installed(method, state, ("dog2", "vase")):
        rows = {"v3": state.tensors["token/dog2"], "v2": state.tensors["token/vase"]}
        assert same(dict(tiny.token_embeddings), rows)
        words = tiny.encode_prompts(["a <v2> and a <v3>"])
    tiny.add_token("<v2>", state.tensors["token/vase"])  # whatever the order
    tiny.add_token("<v3>", state.tensors["token/dog2"])
    torch.testing.assert_close(tiny.encode_prompts(["a <v2> and a <v3>"]), words)
    assert method.lora(state, ("dog",)) == {}


def test_semantic_preservation_is_of_the_word_alone(tiny: Backbone, make_task: MakeTask) -> None:
    curve = learn(tiny, make_task, 1, None, spl_weight=10.0, token_learning_rate=0.1).curve
    assert curve[0]["semantic"] == pytest.approx(0, abs=1e-5)  # the word is its noun still
    assert all(f["semantic"] > 1e-4 for f in curve[1:]) and "semantic" not in learn(tiny, make_task, 1, None).curve[0]


# DTI: only the direction moves


def test_steps_on_the_sphere_term_by_term(tiny: Backbone) -> None:
    noun = tiny.word_embedding("dog")
    table = tiny.vocabulary.encoders[0].table.weight.detach().double().numpy()
    m = float(np.linalg.norm(table, axis=1).mean())
    mu = noun.double().numpy() / np.linalg.norm(noun.double().numpy())
    sphere = Sphere(tiny, noun, TextualInversionOptions(direction_only=True, direction_learning_rate=0.1))
    np.testing.assert_allclose(sphere.start.double().numpy(), m * mu, rtol=1e-5)
    u, v = mu.copy(), sphere.start
    rng = np.random.default_rng(0)
    for _ in range(5):
        dv = rng.normal(size=u.shape) * 1e-4  # so small that the prior counts
        v = sphere.moved(v, torch.tensor(dv, dtype=torch.float32))
        g = m * dv
        g = g - (u @ g) * u - 1e-4 * (mu - (u @ mu) * u)
        g = g / np.linalg.norm(g)
        u = u - 0.1 * g
        u = u / np.linalg.norm(u)
        np.testing.assert_allclose(v.double().numpy(), m * u, rtol=1e-4, atol=1e-6)


def test_the_norm_stays_the_tables_and_the_direction_moves(tiny: Backbone, make_task: MakeTask) -> None:
    options = {"direction_only": True, "direction_learning_rate": 0.1, "steps": 6}
    learned = learn(tiny, make_task, 1, None, **options)
    row, table = learned.state.tensors["token/dog"], tiny.vocabulary.encoders[0].table.weight
    assert float(row.norm()) == pytest.approx(float(table.norm(dim=1).mean()), rel=1e-4)
    noun = tiny.word_embedding("dog")
    cosine = float(torch.cosine_similarity(row, noun, dim=0))
    # each step turns by at most 0.1
    assert np.cos(0.6) - 1e-6 <= cosine < 0.9999
    slow = learn(tiny, make_task, 1, None, **options | {"token_learning_rate": 5.0})
    assert torch.equal(slow.state.tensors["token/dog"], row)  # AdamW moves nothing


def test_it_lowers_the_loss(tiny: Backbone, make_task: MakeTask) -> None:
    options = {"direction_only": True, "direction_learning_rate": 0.02, "steps": 60, "batch_size": 4}
    losses = [f["denoising"] for f in learn(tiny, make_task, 1, None, **options).curve]
    still = [
        f["denoising"] for f in learn(tiny, make_task, 1, None, **options | {"direction_learning_rate": 1e-9}).curve
    ]
    assert np.mean(losses[30:]) < np.mean(still[30:])
