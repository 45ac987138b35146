"""Two-stage rare token: a word alone moves, then the weights alone, task after task."""

from collections.abc import Callable
from typing import Any

import learners
import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.raretoken import RareToken, RareTokenOptions
from cpbench.method import State

Tensors = dict[str, torch.Tensor]
KINDS = ("full", "lora")
SMALL: dict[str, Any] = {"token_steps": 2, "token_learning_rate": 1e-2, "steps": 3, "batch_size": 2, "rank": 2}
SMALL |= {"learning_rate": 1e-3, "lora_learning_rate": 1e-2}


def learn(*given: Any, **options: Any) -> Learned:
    """`learners.learn` of this method with small options."""
    return learners.learn(RareToken, *given, **SMALL | options)


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> dict[str, list[Learned]]:
    """By each kind of stage 2."""
    return {kind: three_tasks(RareToken, **SMALL | {"adapter": kind}) for kind in KINDS}


def everything(backbone: Backbone) -> Tensors:
    """Copies of all there is: parameters, buffers, rows and factors; peft's name of a layer's own weight is undone."""
    found: Tensors = {}
    for part, root in backbone.parts():
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            plain = name.replace(".base_layer.", ".").replace("token_embedding.table.", "token_embedding.")
            found[f"{part}.{plain}"] = tensor.detach().clone()
    return found | {
        f"text_encoder.word.{name}": row.detach().clone() for name, row in backbone.token_embeddings.items()
    }


def changed(before: Tensors, after: Tensors) -> set[str]:
    assert before.keys() <= after.keys()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


# The two stages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_stage_1_moves_the_row_alone_and_stage_2_all_but_words_and_pictures(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], kind: str, number: int
) -> None:
    seen: dict[tuple[str, int], Tensors] = {}
    pristine = everything(tiny)
    before = three[kind][number - 2].state if number > 1 else None
    learned = learn(
        tiny,
        make_task,
        number,
        before,
        lambda phase, step: seen.update({(phase, step): everything(tiny)}),
        adapter=kind,
    )
    row = next(name for name in seen["stage 1", 0] if name.endswith(f"rare-{number}"))

    assert changed(seen["stage 1", 0], seen["stage 1", 1]) == {row}
    begun = pristine | ({f"unet.{k}": v for k, v in before.tensors_of("weights").items()} if before else {})
    assert changed(begun, seen["stage 1", 0]) == set()  # nor before its first step
    assert not torch.equal(seen["stage 1", 0][row], tiny.word_embedding("rare"))

    first, last = seen["stage 2", 0], seen["stage 2", 2]
    moved = changed(seen["stage 1", 1], last)
    if kind == "full":
        assert moved == {f"unet.{name}" for name, _ in tiny.denoiser.named_parameters()}
    else:
        factors = {f"unet.{k}.default.weight" for k in learned.state.tensors_of("adapter")}
        assert len(factors) > 16 and changed(first, last) == factors
        assert moved == (factors if number > 1 else set())  # in task 1 they are new
    words = {k: v for k, v in seen["stage 1", 1].items() if k.startswith(("text_encoder.", "vae."))}
    assert row in words and changed(words, last) == set()
    assert torch.equal(learned.state.tensors[f"token/{CONCEPTS[number - 1]}"], last[row])
    for n, concept in enumerate(CONCEPTS[: number - 1], 1):  # words of earlier tasks
        assert torch.equal(last[row.replace(f"rare-{number}", f"rare-{n}")], before.tensors[f"token/{concept}"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_has_its_own_learning_rate(tiny: Backbone, make_task: MakeTask, kind: str) -> None:
    """Adam's first step is the rate times the sign of the gradient."""
    rates = {"token_learning_rate": 3e-3, "learning_rate": 2e-4, "lora_learning_rate": 5e-4}
    learned = learn(tiny, make_task, 1, None, adapter=kind, token_steps=1, steps=1, **rates).state
    moved = learned.tensors["token/dog"] - tiny.word_embedding("rare")
    assert float(moved.abs().max()) == pytest.approx(3e-3, rel=1e-2)
    if kind == "full":
        weights = learned.tensors_of("weights")
        steps = [float((weights[n] - p).abs().max()) for n, p in tiny.denoiser.named_parameters()]
        assert np.median(steps) == pytest.approx(2e-4, rel=2e-2) and max(steps) < 2.1e-4
    else:  # B starts at zero
        steps = [float(v.abs().max()) for k, v in learned.tensors_of("adapter").items() if k.endswith("lora_B")]
        assert np.median(steps) == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_shows_both_stages(three: dict[str, list[Learned]], kind: str) -> None:
    for learned in three[kind]:
        assert [(f["phase"], f["step"]) for f in learned.curve] == [
            *(("stage 1", i) for i in range(2)),
            *(("stage 2", i) for i in range(3)),
        ]
        assert all(f["loss"] == f["denoising"] > 0.1 and f["gradient_norm"] > 0 for f in learned.curve)


def test_without_stage_1_the_word_stays_as_it_starts(tiny: Backbone, make_task: MakeTask) -> None:
    learned = learn(tiny, make_task, 1, None, adapter="lora", token_steps=0)
    assert torch.equal(learned.state.tensors["token/dog"], tiny.word_embedding("rare"))
    assert {f["phase"] for f in learned.curve} == {"stage 2"} and learned.evaluations == 3 * 2


# Words


def test_every_word_starts_as_the_word_rare(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]]
) -> None:
    assert len(tiny.tokenizer("rare", add_special_tokens=False).input_ids) == 1
    (token,) = tiny.tokenizer("rare", add_special_tokens=False).input_ids
    entry = tiny.text_encoder.get_input_embeddings().weight[token].detach().clone()
    before = three["lora"][0].state
    after = learn(tiny, make_task, 2, before, adapter="lora", token_learning_rate=1e-9, token_steps=1).state
    torch.testing.assert_close(after.tensors["token/vase"], entry, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_prompt_is_learned_from_the_adjective_before_the_noun(
    tiny: Backbone,
    make_task: MakeTask,
    three: dict[str, list[Learned]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    prompts: list[str] = []
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.extend(texts) or encode(texts))
    learn(tiny, make_task, 1, None, adapter=kind)
    assert prompts == ["a photo of <rare-1> dog"] * (2 + 3)
    prompts.clear()
    learn(tiny, make_task, 2, three[kind][0].state, adapter=kind)
    assert prompts == ["a photo of <rare-2> vase"] * (2 + 3)


def test_phrases_are_numbered_in_the_order_of_learning() -> None:
    state = State({}, {"concepts": ["vase", "dog", "dog2"]})
    said = [RareToken().phrase(c, noun, state) for c, noun in (("dog", "dog"), ("dog2", "dog"), ("vase", "vase"))]
    assert said == ["<rare-2> dog", "<rare-3> dog", "<rare-1> vase"]


# What is carried and installed


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_one_model_and_a_row_a_concept(tiny: Backbone, three: dict[str, list[Learned]], kind: str) -> None:
    shapes = {f"weights/{n}": tuple(p.shape) for n, p in tiny.denoiser.named_parameters()}
    if kind == "lora":
        tiny.add_lora(2, adapters.ATTENTION, torch.Generator())
        shapes = {f"adapter/{n}": tuple(v.shape) for n, v in tiny.lora_parameters.items()}
    for number, learned in enumerate(three[kind], 1):
        seen = CONCEPTS[:number]
        expected = shapes | {f"token/{c}": (16,) for c in seen}
        assert {k: tuple(v.shape) for k, v in learned.state.tensors.items()} == expected
        assert learned.state.concepts == list(seen)
    for before, after in zip(three[kind], three[kind][1:], strict=False):
        for name, tensor in before.state.tensors.items():  # words stay bit for bit, all else goes on
            assert torch.equal(after.state.tensors[name], tensor) is name.startswith("token/"), name


@pytest.mark.parametrize("kind", KINDS)
def test_task_2_starts_from_what_task_1_left(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], kind: str
) -> None:
    before = three[kind][0].state
    rates = {"learning_rate": 1e-9, "lora_learning_rate": 1e-9, "token_steps": 1, "steps": 1}
    after = learn(tiny, make_task, 2, before, adapter=kind, **rates).state
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 3])
def test_a_state_of_either_kind_is_installed(
    tiny: Backbone, three: dict[str, list[Learned]], kind: str, number: int
) -> None:
    state, method = three[kind][number - 1].state, RareToken(RareTokenOptions(**SMALL | {"adapter": kind}))
    pristine = everything(tiny)
    noisy = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        words = tiny.encode_prompts(["a dog"])
        plain = tiny.denoiser(noisy, 400, words).sample
    for concepts in ((), ("dog",), ("dog", "vase")):
        with tiny.installed(method, state, concepts), torch.no_grad():
            for n, concept in enumerate(CONCEPTS[:number], 1):
                assert torch.equal(tiny.token_embeddings[f"rare-{n}"], state.tensors[f"token/{concept}"])
                ids = tiny.tokenizer(f"<rare-{n}> dog", add_special_tokens=False).input_ids
                assert len(ids) == 2 and ids[0] == len(tiny.tokenizer) - number + n - 1
            if kind == "full":
                now = dict(tiny.denoiser.named_parameters())
                assert now.keys() == state.tensors_of("weights").keys()
                assert all(torch.equal(now[k], v) for k, v in state.tensors_of("weights").items())
            else:
                assert tiny.lora_parameters.keys() == state.tensors_of("adapter").keys()
                assert all(torch.equal(tiny.lora_parameters[k], v) for k, v in state.tensors_of("adapter").items())
                assert changed(pristine, everything(tiny)) == set()
            assert float((tiny.denoiser(noisy, 400, words).sample - plain).abs().max()) > 1e-3


# Cost


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_and_trained_parameters_are_as_foretold(
    tiny: Backbone, three: dict[str, list[Learned]], kind: str
) -> None:
    size = sum(p.numel() for p in tiny.denoiser.parameters())
    if kind == "lora":
        size = sum(v.numel() for v in tiny.add_lora(2, adapters.ATTENTION, torch.Generator()).values())
    for learned in three[kind]:
        assert learned.evaluations == (2 + 3) * 2
        assert learned.trained == size
