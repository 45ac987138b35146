"""DreamBooth: the loss and its pictures by hand, what moves and what is carried, task after task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import learners
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from learners import CONCEPTS, Learned, MakeTask, layers, same
from test_raretoken import changed, everything

from cpbench.backbones import adapters, loading, sampling
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.baselines.dreambooth import DreamBooth, DreamBoothOptions
from cpbench.errors import UserError
from cpbench.files import seed_of
from cpbench.learning import prior_preservation, training, weights_or_lora
from cpbench.method import State

CASES = {"full": {}, "text": {"train_text_encoder": True}, "lora": {"adapter": "lora"}}
PRIOR: dict[str, Any] = {"prior_pictures": 2, "prior_inference_steps": 2, "prior_guidance_scale": 4.0}
FAST: dict[str, Any] = PRIOR | {"learning_rate": 1e-3, "lora_learning_rate": 1e-2, "steps": 2}


def learn(*args: Any, **options: Any) -> Learned:
    return learners.learn(DreamBooth, *args, **FAST | options)


def made(case: str) -> DreamBooth:
    return DreamBooth(DreamBoothOptions(rank=2, **CASES[case]))


def trained(backbone: Backbone, case: str) -> set[str]:
    """Names, by part, of the parameters that the method moves; of a LoRA, its factors."""
    if case == "lora":
        return {f"unet.{layer}.{side}.default.weight" for layer in layers(backbone) for side in ("lora_A", "lora_B")}
    names = {f"unet.{n}" for n, _ in backbone.denoiser.named_parameters()}
    if case == "text":
        names |= {f"text_encoder.{n}" for n, _ in backbone.text_encoder.named_parameters() if "token_emb" not in n}
    return names


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> dict[str, list[Learned]]:
    return {k: three_tasks(DreamBooth, **FAST | case) for k, case in CASES.items()}


# The loss


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [1, 2])
def test_the_first_loss_is_worked_out_by_hand(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], case: str, number: int
) -> None:
    """The error under "a [V] class", and lambda times that on what the last task's model draws of "a class"."""
    weight, state = 0.7, three[case][0].state if number == 2 else None
    first = learn(tiny, make_task, number, state, prior_weight=weight, **CASES[case]).curve[0]
    task, method = make_task(tiny, CONCEPTS[number - 1], number), made(case)
    c_pr = f"a {task.class_noun}"
    V = tiny.random_embedding(task.generator("identifier"))
    with tiny.installed(method, state, ()):
        tiny.add_token("<new>", V)
        seed = seed_of(task.seed, "prior", task.concept)
        wanted = [SampleRequest(c_pr, seed, task.concept, c_pr, k) for k in range(2)]
        x_pr = sampling.generate(tiny, wanted, Sampler(2, 4.0))
        errors = []
        for images, phase, prompt in ((task.images, "train", f"a <new> {task.class_noun}"), (x_pr, "prior", c_pr)):
            batch = next(training.batches(tiny, replace(task, images=images), 1, 2, phase, ("a {}",)))
            with torch.no_grad():
                words = tiny.encode_prompts([prompt] * 2)
                guess = tiny.denoiser(batch.noisy, batch.timesteps, words).sample
            errors.append(float(F.mse_loss(guess, batch.noise)))
    assert tiny.pipe.scheduler.config.prediction_type == "epsilon"
    assert first["denoising"] == pytest.approx(errors[0], rel=1e-4)
    assert first["prior"] == pytest.approx(weight * errors[1], rel=1e-4)
    assert first["loss"] == pytest.approx(errors[0] + weight * errors[1], rel=1e-4)


def test_without_pictures_of_the_class_there_is_one_term(tiny: Backbone, make_task: MakeTask) -> None:
    for none in ({"prior_pictures": 0}, {"prior_weight": 0.0}):
        learned = learn(tiny, make_task, 1, None, adapter="lora", **none)
        assert all(f["loss"] == f["denoising"] and "prior" not in f for f in learned.curve)
        assert learned.evaluations == 2 * 2


def test_pictures_of_the_class_are_learned_from(tiny: Backbone, make_task: MakeTask) -> None:
    """The error on the class's own pictures, after learning with and without them."""
    task, errors = make_task(tiny), []
    x_pr = prior_preservation.generate(tiny, task, ["a dog"] * 4, Sampler(2, 4.0))
    batches = list(training.batches(tiny, replace(task, images=x_pr), 4, 8, "test"))
    for weight in (0.0, 1.0):
        learned = learn(tiny, make_task, 1, None, prior_weight=weight, prior_pictures=4, steps=20, batch_size=4)
        tiny.replace_weights(learned.state.tensors_of("weights"))
        with torch.no_grad():
            words = tiny.encode_prompts(["a dog"] * 8)
            errors.append(float(sum(training.error(tiny, batch, words) for batch in batches)))
        tiny.restore()
    assert errors[1] < errors[0] - 0.01


@pytest.mark.parametrize(("case", "rate"), [("full", 2e-4), ("text", 2e-4), ("lora", 5e-4)])
def test_each_kind_has_its_own_rate(tiny: Backbone, make_task: MakeTask, case: str, rate: float) -> None:
    """Adam's first step is the rate times the sign of the gradient."""
    rates = {"learning_rate": 2e-4, "lora_learning_rate": 5e-4}
    learned = learn(tiny, make_task, 1, None, steps=1, **rates, **CASES[case]).state
    if case == "lora":  # B starts at zero
        steps = [float(v.abs().max()) for k, v in learned.tensors_of("adapter").items() if k.endswith("lora_B")]
    else:
        begun = everything(tiny)
        names = {
            k if k.startswith("text_encoder.") else f"unet.{k}": v for k, v in learned.tensors_of("weights").items()
        }
        assert names.keys() == trained(tiny, case)
        steps = [float((v - begun[k]).abs().max()) for k, v in names.items()]
    assert np.median(steps) == pytest.approx(rate, rel=2e-2) and max(steps) < 1.05 * rate


# What moves


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_moves_and_nothing_else(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], case: str
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(phase: str, step: int) -> None:
        seen.append(everything(tiny))

    learned = learn(tiny, make_task, 2, three[case][0].state, look=look, steps=3, **CASES[case])
    assert changed(seen[0], seen[-1]) == trained(tiny, case)
    assert learned.trained == sum(seen[0][name].numel() for name in trained(tiny, case))
    for number, concept in enumerate(("dog", "vase"), 1):
        row = learned.state.tensors[f"token/{concept}"]
        assert torch.equal(seen[-1][f"text_encoder.word.sks-{number}"], row)


def test_identifiers_are_random_frozen_words(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]]
) -> None:
    rows = three["full"][2].state.tensors_of("token")
    table = tiny.text_encoder.get_input_embeddings().weight.detach()
    for number, concept in enumerate(CONCEPTS, 1):
        drawn = tiny.random_embedding(make_task(tiny, concept, number).generator("identifier"))
        assert torch.equal(rows[concept], drawn)
        assert float((table - drawn).abs().amax(1).min()) > 0.1  # no entry of the vocabulary
    assert len({tuple(r.tolist()) for r in rows.values()}) == 3
    state = three["full"][2].state
    said = [DreamBooth().phrase(c, n, state) for c, n in (("dog", "dog"), ("vase", "vase"), ("dog2", "dog"))]
    assert said == ["<sks-1> dog", "<sks-2> vase", "<sks-3> dog"]


def test_prompts_are_the_papers(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: set[str] = set()
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.update(texts) or encode(texts))
    learn(tiny, make_task, 2, three["lora"][0].state, adapter="lora", steps=6, batch_size=1)
    assert prompts == {"a <sks-2> vase", "a vase"}


# What is carried and installed


@pytest.mark.parametrize("case", CASES)
def test_the_state_is_one_model_and_a_row_a_concept(tiny: Backbone, three: dict[str, list[Learned]], case: str) -> None:
    """Nothing of the pictures that were drawn."""
    if case == "lora":
        shapes = {f"adapter/{k}": v.shape for k, v in tiny.add_lora(2, adapters.ATTENTION, torch.Generator()).items()}
    else:
        now = everything(tiny)
        shapes = {f"weights/{k.removeprefix('unet.')}": now[k].shape for k in trained(tiny, case)}
    for number, learned in enumerate(three[case], 1):
        expected = shapes | {f"token/{c}": (16,) for c in CONCEPTS[:number]}
        assert {k: v.shape for k, v in learned.state.tensors.items()} == expected
        assert learned.evaluations == 2 * 2 + 2 * 2 + 2 * 2 * 2  # concept, class, drawing with guidance
    learners.rows_stay(three[case])


@pytest.mark.parametrize("case", CASES)
def test_task_2_starts_from_what_task_1_left(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], case: str
) -> None:
    before = three[case][0].state
    after = learn(tiny, make_task, 2, before, learning_rate=1e-9, lora_learning_rate=1e-9, **CASES[case]).state
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-7, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_last_model_is_installed_for_every_prompt(
    tiny: Backbone, three: dict[str, list[Learned]], case: str
) -> None:
    method, state, before = made(case), three[case][2].state, fingerprint(tiny)
    plain = tiny.encode_prompts(["a dog"])
    for concepts in ((), ("dog",), ("dog", "vase")):
        with tiny.installed(method, state, concepts):
            assert same(
                dict(tiny.token_embeddings),
                {f"sks-{n}": state.tensors[f"token/{c}"] for n, c in enumerate(CONCEPTS, 1)},
            )
            assert same(
                tiny.lora_parameters if case == "lora" else tiny.weights,
                state.tensors_of("adapter") or state.tensors_of("weights"),
            )
            assert torch.allclose(tiny.encode_prompts(["a dog"]), plain) is (case != "text")
            ids = tiny.tokenizer("<sks-2> vase", add_special_tokens=False).input_ids
            assert len(ids) == 2 and ids[0] == len(tiny.tokenizer) - 2
        assert fingerprint(tiny) == before
    lora = method.lora(state, ("dog",))
    assert same(lora, state.tensors_of("adapter")) if case == "lora" else lora is None


def test_what_cannot_be_is_refused(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="train_text_encoder needs adapter=full"):
        DreamBooth(DreamBoothOptions(adapter="lora", train_text_encoder=True)).check(tiny)
    monkeypatch.setattr(weights_or_lora, "device_memory", lambda device: 1)
    with pytest.raises(UserError, match="method dreambooth: trains all .* use --set adapter=lora"):
        DreamBooth().check(tiny)
    DreamBooth(DreamBoothOptions(adapter="lora")).check(tiny)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_both_text_encoders_of_sdxl_are_trained(make_task: MakeTask, tmp_path: Path, dtype: str) -> None:
    folder = str(architectures.build("sdxl", tmp_path))
    backbone = loading.load(folder, loading=BackboneConfig(dtype=dtype))
    options = DreamBoothOptions(train_text_encoder=True, learning_rate=1e-3, steps=1, batch_size=1, **PRIOR)
    before = {
        f"{part}.{n}": p.detach().clone()
        for part, e in backbone.vocabulary.named_encoders()
        for n, p in e.named_parameters()
    }
    state = DreamBooth(options).learn(backbone, make_task(backbone), State())
    backbone.restore()
    weights = {k: v for k, v in state.tensors_of("weights").items() if k.startswith("text_encoder")}
    assert weights.keys() == {k for k in before if "token_embedding" not in k}
    still = {k for k, v in weights.items() if torch.equal(v, before[k].float())}
    # the UNet reads the first one's layer before the last, and the second one's pooled output beside it
    assert still and all(
        k.startswith("text_encoder.") and (".layers.2." in k or "final_layer_norm" in k) for k in still
    )
    with backbone.installed(DreamBooth(options), state, ("dog",)):
        drawn = sampling.generate(backbone, [SampleRequest("a <sks-1> dog", 0, "dog", "a {}", 0)], Sampler(2, 4.0))
        assert drawn.std() > 0
