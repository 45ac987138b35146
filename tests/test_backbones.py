"""The backbone: whatever a method does to it, `restore` undoes; words, weights and factors that are put in do their part."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from learners import SHORT

from cpbench.backbones import adapters, loading
from cpbench.backbones import backbone as backbones
from cpbench.backbones.backbone import MINIATURE, Backbone, fingerprint
from cpbench.errors import RulesError, UserError
from cpbench.method import Method, Options, State, Task
from cpbench.registry import built_in_methods, load_method
from cpbench.running import counting

MakeTask = Callable[..., Task]
CASES: dict[str, tuple[str, dict[str, object]]] = {name: (name, {}) for name in built_in_methods()} | {
    "raretoken-lora": ("raretoken", {"adapter": "lora"}),
    "clora-noun": ("clora", {"use_class_noun": True}),
    "dcscore-ewc": ("dcscore", {"variant": "ewc"}),
}
LEARNERS = [case for case in CASES if case != "base"]


class Stop(Exception):
    """A failure in the middle of learning."""


def new_method(case: str) -> Method:
    name, chosen = CASES[case]
    kind = load_method(name)
    return kind(kind.Options(**{k: v for k, v in SHORT.items() if k in kind.Options.model_fields}, **chosen))


def value(backbone: Backbone, seed: int = 0) -> torch.Tensor:
    width = backbone.word_embedding("dog").shape
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


# Pristine


@pytest.mark.parametrize("name", CASES)
def test_a_whole_sequence_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    before, state = fingerprint(tiny), State()
    words: list[str] = []
    for number, concept in enumerate(("dog", "backpack"), 1):
        task = make_task(tiny, concept, number)
        state = new_method(name).learn(tiny, task, state)
        tiny.restore()
        assert differing(before, fingerprint(tiny)) == []
        words.append(concept)
        assert state.concepts == words
        for concepts in ((), (concept,), (words[0],)):
            with tiny.installed(new_method(name), state, concepts):
                tiny.encode_prompts([new_method(name).phrase(words[0], words[0], state)])
            assert differing(before, fingerprint(tiny)) == []


@pytest.mark.parametrize("name", LEARNERS)
def test_a_failure_while_learning_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    """In its first step and in the last of its last phase, of the first task and of the second."""
    before, state = fingerprint(tiny), State()
    for number, concept in enumerate(("dog", "backpack"), 1):
        said: list[int] = []
        given = make_task(tiny, concept, number, log=lambda step, heard=said, **figures: heard.append(step))
        learned = new_method(name).learn(tiny, given, state)
        tiny.restore()
        for at in {1, len(said)}:
            met: list[int] = []

            def stop(step: int, at: int = at, met: list[int] = met, **figures: object) -> None:
                met.append(step)
                if len(met) == at:
                    raise Stop

            with pytest.raises(Stop):
                new_method(name).learn(tiny, make_task(tiny, concept, number, log=stop), state)
            assert differing(before, fingerprint(tiny)) != []
            tiny.restore()
            assert differing(before, fingerprint(tiny)) == []
        state = learned


@pytest.mark.parametrize("name", LEARNERS)
def test_a_failure_while_installing_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    state = new_method(name).learn(tiny, make_task(tiny), State())
    tiny.restore()
    before = fingerprint(tiny)
    broken = [{k: v for k, v in state.tensors.items() if k != "token/dog"}]
    for last in [k for k in state.tensors if k.startswith(("adapter/", "weights/"))][-1:]:
        broken.append(state.tensors | {last: torch.cat([state.tensors[last], state.tensors[last]], -1)})
    for tensors in broken:
        with (
            pytest.raises((KeyError, ValueError, RuntimeError)),
            tiny.installed(new_method(name), State(tensors, state.facts), ("dog",)),
        ):
            pass
        assert differing(before, fingerprint(tiny)) == []


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_that_lacks_a_tensor_is_not_installed(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    state = new_method(name).learn(tiny, make_task(tiny), State())
    tiny.restore()
    before = fingerprint(tiny)
    # weights that are not in a state are as they were loaded, which is no mistake
    read = ("token/",) if name in ("mergelora", "loraclr") else ("adapter/", "token/")  # the next merge reads the LoRAs
    needed = [k for k in state.tensors if k.startswith(read)]
    for lost in (needed[0], needed[-1]):
        damaged = State({k: v for k, v in state.tensors.items() if k != lost}, state.facts)
        with pytest.raises(KeyError), tiny.installed(new_method(name), damaged, ("dog",)):
            pass
        assert differing(before, fingerprint(tiny)) == []


def test_a_failure_while_drawing_leaves_no_trace(tiny: Backbone, make_task: MakeTask) -> None:
    state = new_method("seqlora").learn(tiny, make_task(tiny), State())
    tiny.restore()
    before = fingerprint(tiny)
    with pytest.raises(Stop), tiny.installed(new_method("seqlora"), state, ("dog",)):
        assert differing(before, fingerprint(tiny)) != []
        raise Stop
    assert differing(before, fingerprint(tiny)) == []


def test_the_fingerprint_sees_each_kind_of_change(tiny_folder: Path) -> None:
    own = loading.load(str(tiny_folder))  # changed behind its back: no other test may use it
    before = fingerprint(own)
    weight = own.denoiser.conv_in.weight
    weight.requires_grad_(True)
    assert differing(before, fingerprint(own)) == ["unet.conv_in.weight:"]
    weight.requires_grad_(False)
    own.add_token("<v1>", value(own))
    assert "tokenizer" in differing(before, fingerprint(own))
    own.restore()
    original = own.vae.decoder.conv_act
    own.vae.decoder.conv_act = torch.nn.ReLU()
    assert differing(before, fingerprint(own)) == ["vae.decoder.conv_act"]
    own.vae.decoder.conv_act = original
    assert differing(before, fingerprint(own)) == []
    with torch.no_grad():
        weight.view(-1)[0] += 1e-3
    assert differing(before, fingerprint(own)) == ["unet.conv_in.weight:"]


def test_changes_behind_its_back_are_refused_by_name(tiny_folder: Path) -> None:
    own = loading.load(str(tiny_folder))
    with torch.no_grad():
        own.denoiser.conv_in.weight.mul_(0.2)
    with pytest.raises(RulesError, match="unet.conv_in.weight") as caught:
        own.restore()
    for allowed in ("add_lora", "add_token", "replace_weights"):
        assert allowed in str(caught.value)
    other = loading.load(str(tiny_folder))
    other.denoiser.conv_in.weight = torch.nn.Parameter(other.denoiser.conv_in.weight.detach().clone())
    with pytest.raises(RulesError, match="unet.conv_in.weight"):
        other.restore()


def test_replacing_a_weight_hides_no_other_change(tiny_folder: Path) -> None:
    """Neither that of its original, which waits aside, nor that of a neighbour."""
    own = loading.load(str(tiny_folder))
    original = own.denoiser.conv_in.weight
    own.replace_weights({"conv_in.weight": torch.zeros_like(original)})
    with torch.no_grad():
        original.mul_(0.2)
    with pytest.raises(RulesError, match="unet.conv_in.weight"):
        own.restore()
    other = loading.load(str(tiny_folder))
    other.replace_weights({"conv_in.weight": other.denoiser.conv_in.weight * 2})
    other.denoiser.conv_in.bias = torch.nn.Parameter(other.denoiser.conv_in.bias.detach().clone())
    with pytest.raises(RulesError, match="unet.conv_in.bias"):
        other.restore()


def test_changes_while_installing_are_refused_before_anything_is_drawn(tiny_folder: Path) -> None:
    class Dirty(Method):
        Options = Options

        def install(self, backbone, state, concepts, prompts):
            with torch.no_grad():
                backbone.denoiser.conv_in.weight.mul_(0.2)

    own, drawn = loading.load(str(tiny_folder)), []
    with pytest.raises(RulesError, match="unet.conv_in.weight"), own.installed(Dirty(), State(), ("dog",)):
        drawn.append(True)
    assert not drawn


def test_restore_twice_or_without_need_does_no_harm(tiny: Backbone) -> None:
    before = fingerprint(tiny)
    tiny.restore()
    tiny.add_lora(1, ["to_q"], torch.Generator())
    tiny.restore()
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


def test_a_second_lora_is_refused_and_the_first_stays(tiny: Backbone) -> None:
    first = tiny.add_lora(1, ["to_q"], torch.Generator().manual_seed(0))
    installed = tiny.installed_hash()
    with pytest.raises(RuntimeError, match="restore"):
        tiny.add_lora(1, ["to_k"], torch.Generator())
    assert tiny.lora_parameters is first and tiny.installed_hash() == installed
    tiny.restore()
    tiny.add_lora(1, ["to_k"], torch.Generator())


# Weights

REPLACED = (
    "conv_in.weight",
    "time_embedding.linear_1.bias",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "up_blocks.0.resnets.0.norm1.weight",
    "conv_out.bias",
)


def others(backbone: Backbone, names: Iterable[str] = REPLACED) -> dict[str, torch.Tensor]:
    """New values for the UNet's weights of these names, half again what they are and some noise."""
    g = torch.Generator().manual_seed(5)
    now = {name: backbone.denoiser.get_parameter(name).detach() for name in names}
    return {name: v * 1.5 + 0.1 * torch.randn(v.shape, generator=g) for name, v in now.items()}


def inputs(backbone: Backbone, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(noisy latents, timesteps, words), seeded."""
    g = torch.Generator().manual_seed(6)
    width = backbone.denoiser.config.cross_attention_dim
    noisy, words = torch.randn(n, *backbone.latent_shape, generator=g), torch.randn(n, 7, width, generator=g)
    return noisy, torch.tensor([10, 500, 900])[:n], words


def plain_unet(folder: Path, values: Mapping[str, torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The output of a UNet that diffusers loads, with these weights loaded over its own."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    assert values.keys() <= unet.state_dict().keys()
    unet.load_state_dict({**unet.state_dict(), **values})

    def output(noisy: torch.Tensor, timesteps: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return unet(noisy, timesteps, words).sample

    return output


def output_of(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.predict(*inputs(backbone))


def test_the_unet_computes_with_replaced_weights(tiny: Backbone, tiny_folder: Path) -> None:
    values, untouched = others(tiny), output_of(tiny)
    tiny.replace_weights(values)
    expected = plain_unet(tiny_folder, values)(*inputs(tiny))
    torch.testing.assert_close(output_of(tiny), expected, atol=1e-6, rtol=1e-5)
    assert float((expected - untouched).abs().max()) > 0.1
    tiny.restore()
    assert torch.equal(output_of(tiny), untouched)


def test_all_weights_can_be_replaced(tiny: Backbone, tiny_folder: Path) -> None:
    before, names = fingerprint(tiny), [n for n, _ in tiny.denoiser.named_parameters()]
    values = others(tiny, names)
    assert list(tiny.replace_weights(values)) == names
    assert [n for n, _ in tiny.denoiser.named_parameters()] == names
    expected = plain_unet(tiny_folder, values)(*inputs(tiny))
    torch.testing.assert_close(output_of(tiny), expected, atol=1e-5, rtol=1e-4)
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


def test_replaced_weights_are_those_in_the_unet_and_copies(tiny: Backbone) -> None:
    original = tiny.denoiser.conv_in.weight
    kept, values = original.detach().clone(), others(tiny) | {"conv_in.weight": original}
    replaced = tiny.replace_weights(values)
    assert list(replaced) == list(values)
    for name, weight in replaced.items():
        assert isinstance(weight, torch.nn.Parameter) and weight.requires_grad and weight.is_leaf
        assert tiny.denoiser.get_parameter(name) is weight and tiny.weights[name] is weight
        assert torch.equal(weight, values[name])
    with torch.no_grad():
        for weight in replaced.values():
            weight += 1
    assert torch.equal(original, kept)  # what was given did not move with its copy
    del values["conv_in.weight"]
    tiny.restore()
    assert all(torch.equal(values[k], v) for k, v in others(tiny).items() if k in values)


def test_replaced_weights_have_the_originals_type_and_nobodys_graph(tiny: Backbone) -> None:
    given = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (bias,) = tiny.replace_weights({"conv_out.bias": given * 2}).values()
    assert bias.dtype == torch.float32 and bias.tolist() == [2.0] * 4
    bias.sum().backward()
    assert bias.grad is not None and given.grad is None


def test_restore_puts_the_very_same_parameters_back(tiny: Backbone) -> None:
    before, objects = fingerprint(tiny), dict(tiny.denoiser.named_parameters())
    replaced = tiny.replace_weights(others(tiny))
    assert differing(before, fingerprint(tiny)) == sorted(f"unet.{name}:" for name in REPLACED)
    assert all(tiny.denoiser.get_parameter(name) is not objects[name] for name in replaced)
    tiny.restore()
    after = dict(tiny.denoiser.named_parameters())
    assert list(after) == list(objects) and all(after[name] is objects[name] for name in objects)
    assert differing(before, fingerprint(tiny)) == [] and tiny.weights == {}


def test_replaced_twice_the_last_value_counts_and_the_original_returns(tiny: Backbone) -> None:
    before, original = fingerprint(tiny), tiny.denoiser.conv_out.bias
    (first,) = tiny.replace_weights({"conv_out.bias": torch.ones(4)}).values()
    other = tiny.replace_weights({"conv_in.bias": torch.ones(8)})
    second = tiny.replace_weights({"conv_out.bias": torch.full((4,), 2.0)})
    assert list(second) == ["conv_out.bias"]
    assert tiny.denoiser.conv_out.bias is second["conv_out.bias"] is not first
    assert tiny.weights.keys() == {"conv_out.bias", "conv_in.bias"}
    assert tiny.denoiser.conv_in.bias is other["conv_in.bias"]
    assert tiny.denoiser.conv_out.bias.tolist() == [2.0] * 4 and first.tolist() == [1.0] * 4
    tiny.restore()
    assert tiny.denoiser.conv_out.bias is original and differing(before, fingerprint(tiny)) == []


@pytest.mark.parametrize("shape", [(8, 4, 3), (4, 8, 3, 3), (8, 4, 3, 3, 1), (288,), (), (1, 4, 3, 3)])
def test_a_weight_of_another_shape_is_refused_by_name(tiny: Backbone, shape: tuple[int, ...]) -> None:
    before = fingerprint(tiny)
    assert tiny.denoiser.conv_in.weight.shape == (8, 4, 3, 3)
    with pytest.raises(ValueError, match="conv_in.weight") as caught:
        tiny.replace_weights({"conv_out.bias": torch.ones(4), "conv_in.weight": torch.ones(shape)})
    assert "(8, 4, 3, 3)" in str(caught.value) and str(tuple(shape)) in str(caught.value)
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


@pytest.mark.parametrize(
    "name", ["conv_in.wait", "conv_in", "nowhere.weight", "conv_in.weight.weight", "unet.conv_in.bias"]
)
def test_a_weight_that_is_not_there_is_refused_by_name(tiny: Backbone, name: str) -> None:
    before = fingerprint(tiny)
    with pytest.raises(AttributeError) as caught:
        tiny.replace_weights({"conv_out.bias": torch.ones(4), name: torch.ones(8)})
    assert any(part in str(caught.value) for part in name.split("."))
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


def test_weights_are_not_replaced_below_a_lora(tiny: Backbone) -> None:
    before = fingerprint(tiny)
    tiny.add_lora(1, ["to_q"], torch.Generator().manual_seed(0))
    installed = tiny.installed_hash()
    with pytest.raises(RuntimeError, match="before add_lora"):
        tiny.replace_weights({"conv_out.bias": torch.ones(4)})
    assert tiny.installed_hash() == installed and not tiny.denoiser.conv_out.bias.requires_grad
    tiny.restore()
    tiny.replace_weights({"conv_out.bias": torch.ones(4)})
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


def random_factors(backbone: Backbone, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Values for a LoRA on every attention projection, by the names that `add_lora` gives; none is left installed."""
    g = torch.Generator().manual_seed(seed)
    shapes = {k: v.shape for k, v in backbone.add_lora(rank, adapters.ATTENTION, torch.Generator()).items()}
    backbone.restore()
    return {k: torch.randn(shape, generator=g) * 0.3 for k, shape in shapes.items()}


def random_factors_like(factors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=g) * 0.3 for k, v in factors.items()}


def dense(backbone: Backbone, factors: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> dict:
    """W + B A of every layer with factors, where W is `base`'s or the pristine backbone's; and the rest of `base`."""
    summed = dict(base)
    for name in (k.removesuffix(".lora_A") for k in factors if k.endswith(".lora_A")):
        weight = base.get(f"{name}.weight", backbone.denoiser.get_parameter(f"{name}.weight").detach())
        summed[f"{name}.weight"] = weight + factors[f"{name}.lora_B"] @ factors[f"{name}.lora_A"]
    return summed


def test_a_lora_goes_on_top_of_replaced_weights(tiny: Backbone, tiny_folder: Path) -> None:
    before, factors = fingerprint(tiny), random_factors(tiny)
    values = others(tiny)
    expected = plain_unet(tiny_folder, dense(tiny, factors, values))(*inputs(tiny))
    objects = {**dict(tiny.denoiser.named_parameters()), **dict(tiny.denoiser.named_modules())}
    weights = tiny.replace_weights(values)
    tiny.add_lora(2, adapters.ATTENTION, values=factors)
    torch.testing.assert_close(output_of(tiny), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(weights[k], v) for k, v in values.items())
    tiny.restore()
    after = {**dict(tiny.denoiser.named_parameters()), **dict(tiny.denoiser.named_modules())}
    assert after.keys() == objects.keys() and all(after[name] is objects[name] for name in objects)
    assert differing(before, fingerprint(tiny)) == []


def test_gradients_are_asked_for_by_the_named_alone(tiny: Backbone) -> None:
    weights = tiny.replace_weights(others(tiny))
    rows = [tiny.add_token(f"<v{n}>", value(tiny, n)) for n in (1, 2)]
    factors = tiny.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    added = [*weights.values(), *rows, *factors.values()]
    some = [rows[1], weights[REPLACED[2]], list(factors.values())[5]]
    choices = [added, [], some, [rows[0]], list(factors.values()), list(weights.values()), some]
    for chosen in choices:
        tiny.train_only(p for p in chosen)
        asking = {
            id(p)
            for part in (*(m.parameters() for _, m in tiny.parts()), tiny.token_embeddings.values())
            for p in part
            if p.requires_grad
        }
        assert asking == {id(p) for p in chosen}


def test_what_is_as_it_was_loaded_never_asks_for_gradients(tiny: Backbone) -> None:
    before = fingerprint(tiny)
    tiny.train_only([tiny.denoiser.conv_in.weight, tiny.text_encoder.get_input_embeddings().weight])
    assert differing(before, fingerprint(tiny)) == []


# Predictions


def test_a_prediction_is_the_unets_output(tiny: Backbone, tiny_folder: Path) -> None:
    expected = plain_unet(tiny_folder, {})(*inputs(tiny))
    torch.testing.assert_close(output_of(tiny), expected, atol=1e-6, rtol=1e-5)
    assert output_of(tiny).shape == (3, *tiny.latent_shape)


def test_given_factors_predict_as_if_they_were_installed(tiny: Backbone, tiny_folder: Path) -> None:
    mine, theirs = random_factors(tiny, seed=1), random_factors(tiny, seed=2)
    expected = plain_unet(tiny_folder, dense(tiny, theirs, {}))(*inputs(tiny))
    tiny.add_lora(2, adapters.ATTENTION, values=theirs)
    as_installed = output_of(tiny)
    tiny.restore()
    factors = tiny.add_lora(2, adapters.ATTENTION, values=mine)
    objects, own, before = dict(tiny.denoiser.named_parameters()), output_of(tiny), fingerprint(tiny)
    with torch.no_grad():
        got = tiny.predict(*inputs(tiny), theirs)
    assert torch.equal(got, as_installed)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert float((got - own).abs().max()) > 0.01
    # the installed ones stay, as objects and in their bits, and go on being used
    assert differing(before, fingerprint(tiny)) == []
    now = dict(tiny.denoiser.named_parameters())
    assert all(now[name] is objects[name] for name in objects)
    assert all(torch.equal(factors[k], v) for k, v in mine.items())
    assert torch.equal(output_of(tiny), own)


def test_given_factors_go_on_top_of_replaced_weights_too(tiny: Backbone, tiny_folder: Path) -> None:
    theirs, values = random_factors(tiny, seed=2), others(tiny)
    expected = plain_unet(tiny_folder, dense(tiny, theirs, values))(*inputs(tiny))
    tiny.replace_weights(values)
    tiny.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = tiny.predict(*inputs(tiny), theirs)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_factors_of_some_layers_leave_the_others_as_installed(tiny: Backbone) -> None:
    mine, theirs = random_factors(tiny, seed=1), random_factors(tiny, seed=2)
    some = {k: v for k, v in theirs.items() if "attn2" in k}
    assert 0 < len(some) < len(theirs)
    tiny.add_lora(2, adapters.ATTENTION, values=mine | some)
    expected = output_of(tiny)
    tiny.restore()
    tiny.add_lora(2, adapters.ATTENTION, values=mine)
    with torch.no_grad():
        assert torch.equal(tiny.predict(*inputs(tiny), some), expected)


def test_gradients_flow_to_given_factors_and_not_to_the_installed(tiny: Backbone) -> None:
    factors = tiny.add_lora(2, adapters.ATTENTION, values=random_factors(tiny, seed=1))
    assert all(f.requires_grad for f in factors.values())
    theirs = random_factors_like(factors, 2)
    frozen = tiny.predict(*inputs(tiny), theirs)
    assert not frozen.requires_grad
    given = {k: v.clone().requires_grad_(True) for k, v in theirs.items()}
    tiny.predict(*inputs(tiny), given).square().sum().backward()
    assert all(f.grad is None for f in factors.values())
    # and they are the gradients that these values get where they are installed
    with torch.no_grad():
        for k, f in factors.items():
            f.copy_(theirs[k])
    tiny.predict(*inputs(tiny)).square().sum().backward()
    for k, f in factors.items():
        assert f.grad.any()
        torch.testing.assert_close(given[k].grad, f.grad, atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_given_factors_to_the_words(tiny: Backbone) -> None:
    row = tiny.add_token("<v1>", value(tiny))
    factors = tiny.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    noisy, timesteps, _ = inputs(tiny, 1)
    words = tiny.encode_prompts(["a <v1> dog"])
    tiny.predict(noisy, timesteps, words, random_factors_like(factors, 2)).square().sum().backward()
    assert row.grad.any() and all(f.grad is None for f in factors.values())


def test_factors_for_layers_without_a_lora_are_an_error(tiny: Backbone) -> None:
    theirs = random_factors(tiny)
    with pytest.raises((AttributeError, KeyError, RuntimeError)):
        tiny.predict(*inputs(tiny), theirs)
    tiny.add_lora(2, ["to_q"], torch.Generator().manual_seed(0))
    before = fingerprint(tiny)
    with pytest.raises((AttributeError, KeyError, RuntimeError)):
        tiny.predict(*inputs(tiny), theirs)
    assert differing(before, fingerprint(tiny)) == []


def test_predictions_are_counted_with_factors_and_without(tiny: Backbone) -> None:
    theirs = random_factors(tiny)
    tiny.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    before = tiny.unet_evaluations
    with torch.no_grad():
        tiny.predict(*inputs(tiny, 2))
        assert tiny.unet_evaluations - before == 2
        tiny.predict(*inputs(tiny, 3), theirs)
    assert tiny.unet_evaluations - before == 2 + 3


# Words


def test_a_word_is_one_new_id_in_every_prompt(miniature: Backbone) -> None:
    plain = len(miniature.tokenizer)
    for n in (1, 2, 3):
        miniature.add_token(f"<v{n}>", value(miniature, n))
    for prompt in ("<v2>", "a photo of a <v2> dog", "a photo of a <v2>dog in the snow", "<V2> dog, <v3> cat"):
        ids = miniature.tokenizer(prompt).input_ids
        assert ids.count(plain + 1) == 1, prompt
        assert plain not in ids
    bare = miniature.tokenizer("a photo of a dog in the snow").input_ids
    with_word = miniature.tokenizer("a photo of a <v2> dog in the snow").input_ids
    assert with_word == [*bare[:5], plain + 1, *bare[5:]]


def test_without_the_word_it_is_spelled_out(miniature: Backbone) -> None:
    assert len(miniature.tokenizer("<v1>", add_special_tokens=False).input_ids) > 1


@pytest.mark.parametrize("word", ["dog", "a", "<v1>"])
def test_a_word_that_is_there_already_is_refused(miniature: Backbone, word: str) -> None:
    before = fingerprint(miniature)
    miniature.add_token("<v1>", value(miniature))
    with pytest.raises(ValueError, match="in the vocabulary already"):
        miniature.add_token(word, value(miniature))
    miniature.restore()
    assert differing(before, fingerprint(miniature)) == []


@pytest.mark.parametrize("which", ["tiny", "miniature"])
def test_the_pooled_output_is_the_hidden_state_at_the_end_token(which: str, request: pytest.FixtureRequest) -> None:
    backbone: Backbone = request.getfixturevalue(which)
    end = backbone.tokenizer.eos_token_id
    backbone.add_token("<v1>", value(backbone))
    prompts = ["a <v1> dog", "a photo of a <v1> dog in the snow", "a dog", "<v1>", ""]
    ids = backbone.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        out = backbone.text_encoder(ids)
    for i in range(len(prompts)):
        first_end = ids[i].tolist().index(end)
        torch.testing.assert_close(out.pooler_output[i], out.last_hidden_state[i, first_end], rtol=0, atol=0)
    # the end of "a <v1> dog" has seen the learned word; without causal attention's help it could not differ
    apart = torch.cdist(out.pooler_output, out.pooler_output) + torch.eye(len(prompts))
    assert float(apart.min()) > 1e-3


def test_a_learned_word_reads_as_the_words_whose_embedding_it_has(tiny: Backbone) -> None:
    plain = tiny.encode_prompts(["a photo of a purple dog"])
    tiny.add_token("<v1>", tiny.word_embedding("purple"))
    assert torch.equal(tiny.encode_prompts(["a photo of a <v1> dog"]), plain)


def test_the_embedding_of_a_word_is_the_mean_over_its_tokens(tiny: Backbone) -> None:
    table = tiny.text_encoder.get_input_embeddings().weight
    ids = tiny.tokenizer("stuffed animal", add_special_tokens=False).input_ids
    assert len(ids) == 2
    torch.testing.assert_close(tiny.word_embedding("stuffed animal"), (table[ids[0]] + table[ids[1]]) / 2)
    tiny.add_token("<v1>", value(tiny))
    torch.testing.assert_close(tiny.word_embedding("stuffed animal"), (table[ids[0]] + table[ids[1]]) / 2)


def test_a_random_embedding_has_the_mean_and_spread_of_the_vocabulary(tiny_folder: Path) -> None:
    own = loading.load(str(tiny_folder))  # its table is changed behind its back: no other test may use it
    table = own.text_encoder.get_input_embeddings().weight
    width, n = table.shape[1], 4000
    with torch.no_grad():  # another mean and another spread in every dimension
        table.mul_(torch.logspace(-2, 1, width)).add_(torch.linspace(-3, 3, width))
    entries = table.detach().double().numpy()
    mean, spread = entries.mean(0), entries.std(0)
    g = torch.Generator().manual_seed(0)
    drawn = torch.stack([own.random_embedding(g) for _ in range(n)]).double().numpy()
    assert drawn.shape == (n, width)
    z = (drawn - mean) / spread
    np.testing.assert_allclose(z.mean(0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(z.std(0), 1, atol=5 / (2 * n) ** 0.5)
    assert np.mean(np.abs(z) > 2) == pytest.approx(0.0455, abs=0.005)  # as a normal variable
    apart = np.corrcoef(z.T) - np.eye(width)
    assert np.abs(apart).max() < 5 / n**0.5  # every dimension by itself


def test_a_random_embedding_depends_on_its_generator_alone(tiny: Backbone) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        return [tiny.random_embedding(g) for _ in range(2)]

    first = drawn(3)
    assert not torch.equal(*first) and not first[0].requires_grad
    torch.manual_seed(8)
    before = torch.get_rng_state()
    tiny.add_token("<v1>", 100 * value(tiny))  # a learned word is none of the vocabulary
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(3), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0], drawn(4)[0])
    assert first[0].shape == tiny.word_embedding("dog").shape


# What is installed, and what it costs


def test_the_installed_hash_changes_with_every_factor_and_row(tiny: Backbone) -> None:
    pristine = tiny.installed_hash()
    factors = tiny.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    rows = [tiny.add_token(f"<v{n}>", value(tiny, n)) for n in (1, 2)]
    met = {pristine, tiny.installed_hash()}
    tensors = [*factors.values(), *rows]
    for tensor in tensors:
        for at in (0, -1):
            with torch.no_grad():
                kept = tensor.view(-1)[at].item()
                tensor.view(-1)[at] = kept + 1e-3
                met.add(tiny.installed_hash())
                tensor.view(-1)[at] = kept
    assert len(met) == 2 + 2 * len(tensors)
    assert tiny.installed_hash() in met
    tiny.restore()
    assert tiny.installed_hash() == pristine


def test_the_installed_hash_changes_with_every_replaced_weight(tiny: Backbone) -> None:
    pristine = tiny.installed_hash()
    same = {name: tiny.denoiser.get_parameter(name).detach().clone() for name in REPLACED}
    weights = tiny.replace_weights(same)
    met = {tiny.installed_hash()}
    for weight in weights.values():
        for at in (0, -1):
            with torch.no_grad():
                kept = weight.view(-1)[at].item()
                weight.view(-1)[at] = kept + 1e-3
                met.add(tiny.installed_hash())
                weight.view(-1)[at] = kept
    assert len(met) == 1 + 2 * len(weights)
    assert tiny.installed_hash() in met
    tiny.restore()
    assert tiny.installed_hash() == pristine


def test_the_installed_hash_tells_which_weight_has_which_value(tiny: Backbone) -> None:
    names = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{x}.weight" for x in "kv"]
    values = list(others(tiny, names).values())
    assert values[0].shape == values[1].shape
    met = {tiny.installed_hash()}
    for first, second in (values, values[::-1], (values[0], values[0])):
        tiny.replace_weights(dict(zip(names, (first, second), strict=True)))
        met.add(tiny.installed_hash())
        tiny.restore()
    assert len(met) == 4


@pytest.mark.parametrize("name", CASES)
def test_a_task_costs_what_was_counted_without_computing(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    """And counting leaves the backbone as it was, and asks nothing of its networks."""
    given = [make_task(tiny, concept, number) for number, concept in enumerate(("dog", "backpack", "vase"), 1)]
    method, before, asked = new_method(name), fingerprint(tiny), tiny.unet_evaluations
    counts = counting.count(type(method), method.options, given, tiny)
    assert differing(before, fingerprint(tiny)) == [] and tiny.unet_evaluations == asked
    state, took = State(), []
    for task in given:
        asked = tiny.unet_evaluations
        state = new_method(name).learn(tiny, task, state)
        tiny.restore()
        took.append(tiny.unet_evaluations - asked)
    assert counts == took


def test_the_installed_hash_tells_which_word_has_which_row(tiny: Backbone) -> None:
    met = set()
    for first, second in ((0, 1), (1, 0)):
        tiny.add_token("<v1>", value(tiny, first))
        tiny.add_token("<v2>", value(tiny, second))
        met.add(tiny.installed_hash())
        tiny.restore()
    assert len(met) == 2


def test_every_picture_through_the_unet_is_counted(tiny: Backbone) -> None:
    before = tiny.unet_evaluations
    words = tiny.encode_prompts(["a dog"]).detach()
    with torch.no_grad():
        for n in (1, 3):
            tiny.denoiser(torch.zeros(n, *tiny.latent_shape), 5, words.expand(n, -1, -1))
        tiny.denoiser(
            sample=torch.zeros(2, *tiny.latent_shape), timestep=5, encoder_hidden_states=words.expand(2, -1, -1)
        )
    assert tiny.unet_evaluations - before == 1 + 3 + 2
    tiny.pipe("a dog", num_inference_steps=3, guidance_scale=4.0, num_images_per_prompt=2, output_type="np")
    assert tiny.unet_evaluations - before == 6 + 3 * 2 * 2
    tiny.pipe("a dog", num_inference_steps=3, guidance_scale=1.0, output_type="np")
    assert tiny.unet_evaluations - before == 18 + 3


def test_latents_are_the_posterior_in_the_scale_of_the_unet(tiny: Backbone, make_task: MakeTask) -> None:
    images = make_task(tiny, n=3).images
    mean, std = tiny.encode_images(images)
    pixels = torch.tensor(images.tolist(), dtype=torch.float32).movedim(3, 1) / 255 * 2 - 1
    with torch.no_grad():
        moments = tiny.vae.quant_conv(tiny.vae.encoder(pixels))
    expected, log_variance = moments.chunk(2, 1)
    assert mean.shape == (3, *tiny.latent_shape) and tiny.picture_size == images.shape[1]
    torch.testing.assert_close(mean, expected * 0.5, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, (log_variance / 2).exp() * 0.5, atol=1e-5, rtol=1e-4)


# Loading

PLAIN = """
import json, sys
from cpbench import torchvision_compat
torchvision_compat.apply()
import torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(1)
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
def picture():
    noise = torch.Generator().manual_seed(0)
    return pipe("a dog in the snow", height=64, width=64, num_inference_steps=2, generator=noise, output_type="np").images[0]
first, second = picture(), picture()
parts = {n: sorted({str(p.dtype) for p in getattr(pipe, n).parameters()}) for n in ("unet", "vae", "text_encoder")}
loaded = sorted(m for m in sys.modules if m.startswith("cpbench"))
print(json.dumps([parts, first.shape, bool((first == second).all()), float(first.std()), loaded]))
"""


def test_plain_diffusers_loads_and_draws_the_miniature() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN, str(MINIATURE)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    parts, shape, same, spread, ours = json.loads(done.stdout.splitlines()[-1])
    assert parts == {part: ["torch.float32"] for part in ("unet", "vae", "text_encoder")}
    assert (shape, same) == ([64, 64, 3], True)
    assert spread > 0.01
    assert ours == ["cpbench", "cpbench.moved", "cpbench.torchvision_compat"]


def test_the_backbone_draws_as_plain_diffusers_does(tiny: Backbone, tiny_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    def picture(pipe: StableDiffusionPipeline) -> torch.Tensor:
        noise = torch.Generator().manual_seed(3)
        return torch.tensor(pipe("a dog", num_inference_steps=2, generator=noise, output_type="np").images)

    plain = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    assert torch.equal(picture(tiny.pipe), picture(plain))


def test_loaded_parts_are_frozen_and_in_evaluation_mode(tiny: Backbone) -> None:
    for part in (tiny.denoiser, tiny.vae, tiny.text_encoder):
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(m.training for m in part.modules())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("miniture", "'miniature'"),
        ("Miniature", "'miniature'"),
        ("stable-diffusion-9", "`cpbench list backbones` shows all"),
    ],
)
def test_an_unknown_backbone_gets_the_near_match(name: str, said: str) -> None:
    with pytest.raises(UserError, match="unknown backbone") as caught:
        loading.load(name)
    assert repr(name) in str(caught.value) and said in str(caught.value)


def test_a_folder_without_a_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index.json") as caught:
        loading.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_pipeline_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogView4Pipeline"}')
    with pytest.raises(UserError, match="CogView4Pipeline"):
        loading.load(str(tmp_path))


def test_the_weights_hash_is_of_all_that_moves_a_picture(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "README.md").write_text("words")
    assert backbones.hash_folder(copy) == tiny.weights_hash
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert backbones.hash_folder(copy) != tiny.weights_hash, name
        (copy / name).write_bytes(whole)
    assert backbones.hash_folder(copy) == tiny.weights_hash


def test_a_text_encoders_weights_can_be_replaced_too(tiny: Backbone) -> None:
    before, words = fingerprint(tiny), tiny.encode_prompts(["a dog"])
    own = [n for n, _ in tiny.text_encoder.named_parameters() if "token_embedding" not in n]
    new = tiny.replace_weights({f"text_encoder.{n}": tiny.text_encoder.get_parameter(n) * 1.5 for n in own})
    tiny.add_token("<v1>", tiny.word_embedding("dog"))
    assert not torch.allclose(tiny.encode_prompts(["a dog"]), words)
    tiny.train_only(new.values())
    tiny.encode_prompts(["a <v1>"]).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in new.values())
    tiny.restore()
    assert fingerprint(tiny) == before
    torch.testing.assert_close(tiny.encode_prompts(["a dog"]), words)
