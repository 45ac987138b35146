"""Differential output preservation: the distance to the untouched model on the class noun's prompt, whatever a method put in."""

from collections.abc import Callable

import pytest
import torch
from learners import SMALL, MakeTask, learn, same

from cpbench import config, learning
from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.learning import ATTENTION, ClassPreservationOptions, class_preservation_term, functional
from cpbench.registry import built_in_methods, load_method

WEIGHT = 2.0
TRAINING = [m for m in built_in_methods() if m not in ("base", "textualinversion")]
FEW = {"token_steps": 1, "fisher_samples": 2, "dsc_steps": 1, "prior_pictures": 2, "prior_inference_steps": 1}
FEW |= {"replay_pictures": 1, "replay_inference_steps": 1, "crops": 1, "initializer": "rare", "caption_samples": 1}
FEW |= {"merge_steps": 1}


def put_lora(backbone: Backbone, adapter_type: str = "lora") -> None:
    g = torch.Generator().manual_seed(0)
    backbone.add_lora(2, ATTENTION, g, adapter_type=adapter_type)
    with torch.no_grad():
        for p in backbone.lora_parameters.values():
            p.add_(0.3 * torch.randn(p.shape, generator=g))


def put_weights(backbone: Backbone) -> None:
    g = torch.Generator().manual_seed(0)
    changed = dict(list(backbone.denoiser.named_parameters())[::3])
    backbone.replace_weights({k: p.detach() + 0.1 * torch.randn(p.shape, generator=g) for k, p in changed.items()})


def put_both(backbone: Backbone) -> None:
    put_weights(backbone)
    put_lora(backbone)


CASES: dict[str, Callable] = {
    "lora": put_lora,
    "dora": lambda backbone: put_lora(backbone, "dora"),
    "vera": lambda backbone: put_lora(backbone, "vera"),
    "weights": put_weights,
    "both": put_both,
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_distance_to_the_model_as_loaded(tiny: Backbone, make_task: MakeTask, case: str) -> None:
    batch = next(learning.batches(tiny, make_task(tiny, "vase", 1), 1, 2, "train"))
    states = tiny.encode_prompts([batch.template.format("vase")] * 2)

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return tiny.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=states).sample

    untouched = predicted()
    CASES[case](tiny)
    parameters = list(tiny.denoiser.named_parameters())
    now = predicted()
    expected = WEIGHT * float((now - untouched).square().mean())
    term = class_preservation_term(tiny, "vase", ClassPreservationOptions(dop_weight=WEIGHT))
    terms = learning.denoising_terms(tiny, batch, ["a <v1> vase"] * 2, [term])
    assert float(terms["class"]) == pytest.approx(expected, rel=1e-4) and expected > 1e-4
    # what was put in is there again, object by object
    assert all(p is q for (_, p), (_, q) in zip(parameters, tiny.denoiser.named_parameters(), strict=True))
    torch.testing.assert_close(predicted(), now, rtol=0, atol=0)


def test_what_is_added_in_the_layers_is_taken_out_too(tiny: Backbone, make_task: MakeTask) -> None:
    batch = next(learning.batches(tiny, make_task(tiny, "vase", 1), 1, 2, "train"))
    states = tiny.encode_prompts([batch.template.format("vase")] * 2)
    layer = next(n for n, m in tiny.denoiser.named_modules() if n.endswith("attn2.to_k"))
    W = tiny.denoiser.get_parameter(f"{layer}.weight")
    deltas = {layer: 0.5 * torch.randn(W.shape, generator=torch.Generator().manual_seed(0))}
    untouched = tiny.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=states).sample
    with functional.adding(tiny.denoiser, deltas):
        now = tiny.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=states).sample
        o = ClassPreservationOptions(dop_weight=WEIGHT)
        term = class_preservation_term(tiny, "vase", o, deltas)
        terms = learning.denoising_terms(tiny, batch, ["a vase"] * 2, [term])
    expected = WEIGHT * float((now - untouched).square().mean())
    assert float(terms["class"]) == pytest.approx(expected, rel=1e-4) and expected > 1e-6 and layer in deltas


@pytest.mark.parametrize("name", TRAINING)
def test_each_method_has_it(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    """Its term is in the curve, at the start of the first task 0: nothing is put in yet that changes the class."""
    kind = load_method(name)
    options = {k: v for k, v in FEW.items() if k in kind.Options.model_fields}
    learned = learn(kind, tiny, make_task, 1, None, dop_weight=WEIGHT, **options)
    values = [figures["class"] for figures in learned.curve if "class" in figures]
    assert values[0] < 1e-6 < values[-1]


def test_without_weight_nothing_is_computed(tiny: Backbone, make_task: MakeTask) -> None:
    kind = load_method("seqlora")
    plain, off = learn(kind, tiny, make_task, 1, None), learn(kind, tiny, make_task, 1, None, dop_weight=0.0)
    assert same(plain.state.tensors, off.state.tensors) and plain.evaluations == off.evaluations == 3 * 2
    assert learn(kind, tiny, make_task, 1, None, dop_weight=1.0).evaluations == 3 * (2 + 2 + 2)
    assert (
        kind.Options.identifying(kind.Options(**{k: v for k, v in SMALL.items()}).model_dump()).get("dop_weight")
        is None
    )


def test_a_method_that_moves_no_weight_refuses_it_in_one_line() -> None:
    given = {"method": "textualinversion", "sequence": "quick3", "options": {"dop_weight": 1.0}}
    with pytest.raises(UserError) as refused:
        config.resolve(given)
    assert "dop_weight" in str(refused.value) and "\n" not in str(refused.value)
