"""LwF: the distance to the last model on an earlier concept's prompt, in one call with the new concept's own."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from learners import Learned, MakeTask, rows_stay

from cpbench import learning
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.lwf import LearningWithoutForgetting, LwfOptions
from cpbench.learning import add_tokens

WEIGHT = 3.0


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(LearningWithoutForgetting, lwf_weight=WEIGHT)


@pytest.fixture
def method() -> LearningWithoutForgetting:
    return LearningWithoutForgetting(LwfOptions(rank=2, lwf_weight=WEIGHT))


def test_it_is_the_distance_of_two_models_on_the_batch(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], method: LearningWithoutForgetting
) -> None:
    state, task = three[0].state, make_task(tiny, "vase", 2)
    before = state.tensors_of("adapter")
    g = torch.Generator().manual_seed(0)
    now = {k: v + 0.05 * torch.randn(v.shape, generator=g) for k, v in before.items()}
    batch = next(learning.batches(tiny, task, 1, 2, "train"))

    def predicted(lora: dict) -> torch.Tensor:
        add_tokens(tiny, state)
        tiny.add_lora(2, method.options.target_modules, values=lora)
        states = tiny.encode_prompts([batch.template.format("<v1> dog")] * 2)
        with torch.no_grad():
            out = tiny.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=states).sample
        tiny.restore()
        return out

    expected = WEIGHT * float((predicted(now) - predicted(before)).square().mean())
    add_tokens(tiny, state)
    tiny.add_lora(2, method.options.target_modules, values=now)
    evaluations = tiny.unet_evaluations
    term = method.distillation(tiny, task, state, before)
    terms = learning.denoising_terms(tiny, batch, ["a vase"] * 2, [term])
    assert float(terms["lwf"]) == pytest.approx(expected, rel=1e-4) and expected > 1e-4
    assert tiny.unet_evaluations - evaluations == 6  # the new prompt, the earlier one, and the teacher's
    alone = learning.denoising_terms(tiny, batch, ["a vase"] * 2)
    assert float(terms["denoising"]) == pytest.approx(float(alone["denoising"]), rel=1e-5)


def test_the_second_task_begins_without_a_penalty(three: list[Learned]) -> None:
    assert not any("lwf" in figures for figures in three[0].curve)
    for learned in three[1:]:
        assert learned.curve[0]["lwf"] < 1e-9 < learned.curve[-1]["lwf"]


def test_earlier_words_are_not_trained(three: list[Learned]) -> None:
    rows_stay(three)


def test_each_earlier_concept_is_drawn_as_often(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], method: LearningWithoutForgetting
) -> None:
    task = make_task(tiny, "dog2", 3)
    draws = [method.distillation(tiny, task, three[1].state, {}).phrase for _ in range(2)]
    drawn, again = ([phrase() for _ in range(400)] for phrase in draws)
    assert drawn == again and set(drawn) == {"<v1> dog", "<v2> vase"}
    assert abs(Counter(drawn)["<v1> dog"] - 200) < 4 * 10  # 10 is the count's standard deviation


def test_a_heavy_weight_keeps_the_last_model(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    from learners import learn

    ends = [
        learn(LearningWithoutForgetting, tiny, make_task, 2, three[0].state, steps=30, lwf_weight=weight).curve[-1][
            "lwf"
        ]
        / weight
        for weight in (1e-3, 1e3)
    ]
    assert ends[1] < 0.3 * ends[0]
