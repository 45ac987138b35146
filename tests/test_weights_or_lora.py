"""All weights or one LoRA: what is begun, what is put back, and which names a state has them by."""

from collections.abc import Callable

import pytest
import torch
from learners import TARGETS, same

from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.learning import weights_or_lora
from cpbench.learning.weights_or_lora import WeightsOrLoraOptions
from cpbench.method import State

FULL, LORA = (
    WeightsOrLoraOptions(learning_rate=1.0, lora_learning_rate=2.0),
    WeightsOrLoraOptions(adapter="lora", rank=2, target_modules=TARGETS, learning_rate=1.0, lora_learning_rate=2.0),
)


def test_all_weights_are_the_unets_and_with_words_the_encoders_but_not_their_tables(
    tiny: Backbone, make_task: Callable
) -> None:
    encoder = tiny.vocabulary.encoders[0]
    of_unet = {f"weights/{name}" for name, _ in tiny.denoiser.named_parameters()}
    of_words = sum(p.numel() for p in tiny.pipe.text_encoder.parameters()) - encoder.table.weight.numel()
    theta, (rate, trained) = weights_or_lora.init_trainables(tiny, make_task(tiny), FULL)
    assert (theta.keys(), rate, len(trained)) == (of_unet, 1.0, len(of_unet))
    tiny.restore()
    theta, (_, trained) = weights_or_lora.init_trainables(tiny, make_task(tiny), FULL, with_words=True)
    assert sum(v.numel() for k, v in theta.items() if k not in of_unet) == of_words
    assert not any(p.shape == encoder.table.weight.shape for p in trained)


@pytest.mark.parametrize("o", [FULL, LORA])
def test_what_a_task_left_is_gone_on_with(tiny: Backbone, make_task: Callable, o: WeightsOrLoraOptions) -> None:
    first, (_, trained) = weights_or_lora.init_trainables(tiny, make_task(tiny), o)
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.5
    state = State({k: v.detach().clone() for k, v in first.items()})
    assert state.tensors_of("adapter").keys() == (weights_or_lora.lora(state, o) or {}).keys()
    tiny.restore()
    weights_or_lora.load_trainables(tiny, State(), o)
    assert not tiny.weights and not tiny.lora_parameters
    weights_or_lora.load_trainables(tiny, state, o)
    again, (rate, _) = weights_or_lora.init_trainables(tiny, make_task(tiny, number=2), o)
    assert rate == (2.0 if o.adapter == "lora" else 1.0) and same(again, state.tensors)


def test_only_all_weights_can_be_too_large(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpbench.learning.weights_or_lora.device_memory", lambda device: 1000)
    with pytest.raises(UserError, match="method m: trains all .* use --set adapter=lora"):
        weights_or_lora.refuse_if_too_large("m", FULL, tiny)
    weights_or_lora.refuse_if_too_large("m", LORA, tiny)
