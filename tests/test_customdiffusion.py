"""Custom Diffusion: its constrained least squares against KKT systems and scipy, and both ways through three tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, same
from test_raretoken import changed, everything

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler
from cpbench.baselines.customdiffusion import (
    CAPTIONS,
    RIDGE,
    CustomDiffusion,
    CustomDiffusionOptions,
    closed_form,
    text_embeddings,
)
from cpbench.learning import prior_preservation, training
from cpbench.method import State

MERGED = {"merge": "closed-form"}
PRIOR: dict[str, Any] = {"prior_pictures": 2, "prior_inference_steps": 2}
FAST: dict[str, Any] = PRIOR | {"learning_rate": 1e-2, "token_learning_rate": 1e-2, "steps": 3, "batch_size": 2}


def learn(
    backbone: Backbone,
    make_task: MakeTask,
    number: int,
    state: State | None,
    look: Callable | None = None,
    **options: Any,
) -> Learned:
    """With `factors` the weights after the last step."""
    last: dict[str, torch.Tensor] = {}

    def keep(phase: str, step: int) -> None:
        last.update({k: v.detach().clone() for k, v in backbone.weights.items()})
        if look:
            look(phase, step)

    learned = learners.learn(CustomDiffusion, backbone, make_task, number, state, keep, **FAST | options)
    learned.factors = last
    return learned


@pytest.fixture(scope="module")
def three(_loaded: Callable[[str], Backbone], tiny_folder: Path, make_task: MakeTask) -> dict[str, list[Learned]]:
    backbone, found = _loaded(str(tiny_folder)), {}
    for merge in ("none", "closed-form"):
        tasks: list[Learned] = []
        for number in (1, 2, 3):
            tasks.append(learn(backbone, make_task, number, tasks[-1].state if tasks else None, merge=merge))
        found[merge] = tasks
    return found


def keys_and_values(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Weights of key and value projections of every cross-attention, by what they are: they read the words, 16 wide."""
    found = {}
    for name, module in backbone.denoiser.named_modules():
        if type(module).__name__ == "Attention" and name.endswith("attn2"):
            for side in ("to_k", "to_v"):
                found[f"{name}.{side}.weight"] = getattr(module, side).weight.detach().clone()
    assert len(found) >= 6 and all(w.shape[1] == 16 for w in found.values())
    return found


# Eqs. 4 and 5


def problem(seed: int, out: int, d: int, s: int, n: int) -> tuple[np.ndarray, ...]:
    """W_0 (out, d), C_reg (n, d), C (s, d) and V (s, out)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(out, d)), rng.normal(size=(n, d)), rng.normal(size=(s, d)), rng.normal(size=(s, out))


def solved(W_0: np.ndarray, C_reg: np.ndarray, C: np.ndarray, V: np.ndarray) -> np.ndarray:
    return closed_form(*(torch.from_numpy(x) for x in (W_0, C_reg.T @ C_reg, C, V))).numpy()


def cost(W: np.ndarray, W_0: np.ndarray, C_reg: np.ndarray) -> float:
    return float(((W @ C_reg.T - W_0 @ C_reg.T) ** 2).sum())


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 7), st.data())
def test_the_closed_form_is_the_solution_of_the_kkt_system(seed: int, out: int, d: int, data: st.DataObject) -> None:
    """Row by row: 2 G w + C^T mu = 2 G w_0 and C w = v."""
    s = data.draw(st.integers(1, d - 1))
    W_0, C_reg, C, V = problem(seed, out, d, s, 3 * d)
    G = C_reg.T @ C_reg
    kkt = np.block([[2 * G, C.T], [C, np.zeros((s, s))]])
    W = solved(W_0, C_reg, C, V)
    np.testing.assert_allclose(W @ C.T, V.T, atol=1e-7)  # the constraint, exactly
    for i in range(out):
        w = np.linalg.solve(kkt, np.concatenate([2 * G @ W_0[i], V[:, i]]))[:d]
        np.testing.assert_allclose(W[i], w, rtol=1e-5, atol=1e-6)


def test_scipy_finds_no_better_one() -> None:
    from scipy.optimize import minimize

    W_0, C_reg, C, V = problem(4, 2, 5, 2, 9)
    W = solved(W_0, C_reg, C, V)
    found = minimize(
        lambda w: cost(w.reshape(2, 5), W_0, C_reg),
        W_0.ravel(),
        method="SLSQP",
        constraints={"type": "eq", "fun": lambda w: (w.reshape(2, 5) @ C.T - V.T).ravel()},
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success and cost(W, W_0, C_reg) == pytest.approx(found.fun, rel=1e-6)
    np.testing.assert_allclose(W, found.x.reshape(2, 5), atol=1e-4)


def test_whatever_else_meets_the_constraint_costs_more() -> None:
    W_0, C_reg, C, V = problem(7, 3, 6, 2, 20)
    W = solved(W_0, C_reg, C, V)
    free = np.linalg.svd(C)[2][2:]  # directions that C does not see
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 10.0):
        other = W + size * rng.normal(size=(3, 4)) @ free
        np.testing.assert_allclose(other @ C.T, V.T, atol=1e-7)
        assert cost(other, W_0, C_reg) > cost(W, W_0, C_reg)


def test_what_asks_for_nothing_new_changes_nothing() -> None:
    W_0, C_reg, C, _ = problem(1, 3, 6, 2, 20)
    np.testing.assert_allclose(solved(W_0, C_reg, C, C @ W_0.T), W_0, atol=1e-9)


def test_constraints_may_repeat_and_be_too_many() -> None:
    W_0, C_reg, C, V = problem(2, 3, 4, 2, 20)
    twice = solved(W_0, C_reg, np.concatenate([C, C]), np.concatenate([V, V]))
    np.testing.assert_allclose(twice, solved(W_0, C_reg, C, V), atol=1e-7)
    W_0, C_reg, C, V = problem(3, 3, 4, 9, 20)  # nine for four columns: as near as least squares come
    best, *_ = np.linalg.lstsq(C, V, rcond=None)
    W = solved(W_0, C_reg, C, V)
    assert ((W @ C.T - V.T) ** 2).sum() == pytest.approx(((C @ best - V) ** 2).sum(), rel=1e-9)


# Text embeddings


def by_place(backbone: Backbone, prompt: str, begin: int) -> torch.Tensor:
    """The text encoder's answer to the unpadded prompt, from place `begin` to its end."""
    with torch.no_grad():
        return backbone.text_encoder(torch.tensor([backbone.tokenizer(prompt).input_ids]))[0][0, begin:]


def test_embeddings_are_those_from_the_word_to_the_end_of_text(tiny: Backbone) -> None:
    tiny.add_token("<v1>", tiny.word_embedding("rare"))
    prompts = ["<v1> stuffed animal", "photo of a <v1> vase", "a dog in the snow"]
    expected = [by_place(tiny, prompt, begin) for prompt, begin in zip(prompts, (1, 4, 1), strict=True)]
    assert [len(e) for e in expected] == [4, 3, 6]
    torch.testing.assert_close(text_embeddings(tiny, prompts), torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_captions_are_many_and_different(miniature: Backbone) -> None:
    assert len(CAPTIONS) == len(set(CAPTIONS)) >= 200 and not any("{" in c or "  " in c for c in CAPTIONS)
    C_reg = text_embeddings(miniature, CAPTIONS)
    assert len(C_reg) == sum(len(miniature.tokenizer(c).input_ids) - 1 for c in CAPTIONS)
    torch.testing.assert_close(C_reg[-5:], by_place(miniature, CAPTIONS[-1], 1)[-5:], atol=1e-4, rtol=1e-3)
    # the ridge is small beside all directions but the one that the final layer norm takes away
    spread = torch.linalg.eigvalsh((C_reg.T @ C_reg).double())
    assert int((spread < RIDGE * spread.mean()).sum()) <= 1


# Learning


@pytest.mark.parametrize("merge", ["none", "closed-form"])
def test_keys_values_and_the_word_move_and_nothing_else(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], merge: str
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    names = {f"unet.{name}" for name in keys_and_values(tiny)}
    pristine = everything(tiny)
    before = three[merge][0].state
    learned = learn(tiny, make_task, 2, before, lambda phase, step: seen.append(everything(tiny)), merge=merge)
    assert changed(seen[0], seen[-1]) == names | {"text_encoder.word.v2"}
    assert changed(pristine, seen[-1]) == names
    assert learned.trained == sum(seen[0][n].numel() for n in names) + 16
    assert learned.evaluations == 3 * 2 + 3 * 2 + 2 * 2 * 2  # concept, class, drawing with guidance


@pytest.mark.parametrize("merge", ["none", "closed-form"])
def test_pictures_of_the_class_are_the_untouched_models(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], monkeypatch: pytest.MonkeyPatch, merge: str
) -> None:
    drawn: list[np.ndarray] = []
    genuine = prior_preservation.generate
    monkeypatch.setattr(prior_preservation, "generate", lambda *a: drawn.append(genuine(*a)) or drawn[-1])
    learned = learn(tiny, make_task, 2, three[merge][0].state, prior_weight=0.5, merge=merge)
    (x_pr,) = drawn
    plain = genuine(tiny, make_task(tiny, "vase", 2), ["photo of a vase"] * 2, Sampler(2, 6.0))
    np.testing.assert_array_equal(x_pr, plain)
    for figures in learned.curve:
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["prior"], rel=1e-6)
    whole = learn(tiny, make_task, 2, three[merge][0].state, merge=merge).curve[0]["prior"]
    assert learned.curve[0]["prior"] == pytest.approx(0.5 * whole, rel=1e-5)


def test_prompts_are_the_papers(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CustomDiffusion().phrase("vase", "vase", three["none"][1].state) == "<v2> vase"
    prompts: set[str] = set()
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.update(texts) or encode(texts))
    learn(tiny, make_task, 2, three["none"][0].state)
    assert prompts == {"photo of a <v2> vase", "photo of a vase"}


def test_the_word_starts_as_a_rare_one(tiny: Backbone, make_task: MakeTask) -> None:
    for initializer in ("ktn", "rare"):  # neither is a piece of this vocabulary
        row = learn(tiny, make_task, 1, None, initializer=initializer, token_learning_rate=0).state.tensors["token/dog"]
        ids = tiny.tokenizer(initializer, add_special_tokens=False).input_ids
        entries = tiny.text_encoder.get_input_embeddings().weight.detach()[ids]
        torch.testing.assert_close(row, entries.mean(0))


# One after the other


def test_the_state_is_one_change_of_keys_and_values_and_a_row_a_concept(
    tiny: Backbone, three: dict[str, list[Learned]]
) -> None:
    W_0 = keys_and_values(tiny)
    for number, learned in enumerate(three["none"], 1):
        expected = {f"weights/{k}" for k in W_0} | {f"token/{c}" for c in CONCEPTS[:number]}
        assert learned.state.tensors.keys() == expected
        for name, w in W_0.items():
            torch.testing.assert_close(learned.state.tensors[f"weights/{name}"], learned.factors[name] - w)
    learners.rows_stay(three["none"])


def test_task_2_starts_from_what_task_1_left(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]]
) -> None:
    still = {"learning_rate": 1e-9, "token_learning_rate": 0, "steps": 1}
    after = learn(tiny, make_task, 2, three["none"][0].state, **still)
    for name, w in three["none"][0].factors.items():
        torch.testing.assert_close(after.factors[name], w, atol=1e-6, rtol=1e-6)


def test_the_last_weights_are_installed_for_every_prompt(tiny: Backbone, three: dict[str, list[Learned]]) -> None:
    method, last = CustomDiffusion(), three["none"][2]
    for concepts in ((), ("dog",), ("dog", "vase")):
        with tiny.installed(method, last.state, concepts):
            now = keys_and_values(tiny)
            for name, w in last.factors.items():
                torch.testing.assert_close(now[name], w, atol=1e-6, rtol=1e-6)
            assert same(
                dict(tiny.token_embeddings),
                {f"v{n}": last.state.tensors[f"token/{c}"] for n, c in enumerate(CONCEPTS, 1)},
            )
    assert method.lora(last.state, ("dog",)) is None


# Merged


def test_a_concept_is_learned_from_the_untouched_model(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]]
) -> None:
    alone = learn(tiny, make_task, 2, None, **MERGED)
    assert same(alone.factors, three["closed-form"][1].factors)
    third = three["closed-form"][2].state
    for name, tensor in alone.state.tensors.items():
        torch.testing.assert_close(third.tensors[name], tensor)


def test_of_a_concept_its_constraint_is_carried(tiny: Backbone, three: dict[str, list[Learned]]) -> None:
    W_0 = keys_and_values(tiny)
    shapes = {"C": (6, 16)} | {name: (6, len(w)) for name, w in W_0.items()}
    for number, learned in enumerate(three["closed-form"], 1):
        seen = CONCEPTS[:number]
        expected = {f"anchor/{c}/{k}": s for c in seen for k, s in shapes.items()} | {f"token/{c}": (16,) for c in seen}
        assert {k: tuple(v.shape) for k, v in learned.state.tensors.items()} == expected
        if number > 1:
            before = three["closed-form"][number - 2].state
            assert all(torch.equal(learned.state.tensors[k], v) for k, v in before.tensors.items())


@pytest.mark.parametrize("number", [1, 2])
def test_merged_weights_answer_every_concepts_words_as_its_own_did(
    tiny: Backbone, three: dict[str, list[Learned]], number: int
) -> None:
    """And they are the nearest such: the KKT system of every layer, ridge and all. (Three concepts are too many here.)"""
    state, method = three["closed-form"][number - 1].state, CustomDiffusion(CustomDiffusionOptions(**MERGED))
    W_0, nouns = keys_and_values(tiny), {"dog": "dog", "vase": "vase"}
    C_reg = torch.cat([by_place(tiny, caption, 1) for caption in CAPTIONS]).double().numpy()
    G = C_reg.T @ C_reg
    G += RIDGE * np.trace(G) / 16 * np.eye(16)
    for concepts in ((), ("dog",), ("dog", "vase")[:number]):
        with tiny.installed(method, state, concepts):
            assert tiny.token_embeddings.keys() == {f"v{n}" for n in range(1, number + 1)}
            W, C, V = keys_and_values(tiny), [], {name: [] for name in W_0}
            for n, concept in enumerate(state.concepts, 1):
                words = f"<v{n}> {nouns[concept]}"
                C.append(state.tensors[f"anchor/{concept}/C"])
                told = torch.cat([by_place(tiny, words, 1), by_place(tiny, f"photo of a {words}", 4)])
                torch.testing.assert_close(C[-1], told, atol=1e-5, rtol=1e-4)
                own = three["closed-form"][n - 1].factors
                for name in W_0:
                    V[name].append(C[-1] @ own[name].T)
        C_all = torch.cat(C).double().numpy()
        for name, w_0 in W_0.items():
            v = torch.cat(V[name])
            torch.testing.assert_close(torch.cat(C) @ W[name].T, v, atol=2e-3, rtol=1e-3)
            assert float((torch.cat(C) @ w_0.T - v).abs().max()) > 0.05  # which they would not by themselves
            zeros = np.zeros((len(C_all), len(C_all)))
            kkt = np.block([[2 * G, C_all.T], [C_all, zeros]])
            right = np.concatenate([2 * G @ w_0.double().numpy().T, v.double().numpy()])
            nearest = np.linalg.solve(kkt, right)[:16]
            # told by what they make of words: W itself is loose where the final layer norm leaves no word
            np.testing.assert_allclose(C_reg @ W[name].numpy().T, C_reg @ nearest, atol=2e-3)
            assert np.abs(C_reg @ (w_0.numpy().T - nearest)).max() > 0.05


def test_merging_more_than_fits_is_still_finite(tiny: Backbone, three: dict[str, list[Learned]]) -> None:
    """18 constraints, 16 columns."""
    state = three["closed-form"][2].state
    with tiny.installed(CustomDiffusion(CustomDiffusionOptions(**MERGED)), state, CONCEPTS):
        assert all(torch.isfinite(w).all() for w in keys_and_values(tiny).values())
        assert CustomDiffusion(CustomDiffusionOptions(**MERGED)).lora(state, CONCEPTS) is None


@pytest.mark.parametrize("name", ["sd21-base", "sdxl"])
def test_merging_on_other_architectures(make_task: MakeTask, tmp_path: Path, name: str) -> None:
    """Words of two encoders side by side, and more weights than captions fill."""
    backbone = loading.load(str(architectures.build(name, tmp_path)))
    options = CustomDiffusionOptions(
        **MERGED, prior_pictures=0, steps=1, batch_size=1, learning_rate=1e-2, token_learning_rate=0.2
    )
    state, own = State(), []
    for number, concept in enumerate(("dog", "backpack"), 1):
        state = CustomDiffusion(options).learn(backbone, make_task(backbone, concept, number), state)
        own.append({k: v.detach().clone() for k, v in backbone.weights.items()})
        backbone.restore()
    assert len(own[0]) == {"sd21-base": 32, "sdxl": 140}[name]
    with backbone.installed(CustomDiffusion(options), state, ()):
        for n, noun in enumerate(("dog", "backpack"), 1):
            C = state.tensors[f"anchor/{noun}/C"]  # as concepts are called here
            assert C.shape == (6, sum(e.table.embedding_dim for e in backbone.vocabulary.encoders))
            again = text_embeddings(backbone, [f"<v{n}> {noun}", f"photo of a <v{n}> {noun}"])
            torch.testing.assert_close(again, C, atol=1e-5, rtol=1e-4)
            for name, w in own[n - 1].items():
                now = backbone.denoiser.get_parameter(name)
                torch.testing.assert_close(C @ now.detach().T, C @ w.T, atol=1e-3, rtol=1e-3)
    assert training.TEMPLATES != CustomDiffusion.templates == ("photo of a {}",)
