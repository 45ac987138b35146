"""Weights that are functions of what is trained, against the same weights put in, and without a trace afterwards."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cpbench import backbones
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.learning import functional

TARGETS = ("attn2.to_k", "to_out.0", "conv1", "downsamplers.0.conv", "conv_in", "ff.net.2")
Loaded = Callable[[str], Backbone]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_changes(backbone: Backbone) -> dict[str, torch.Tensor]:
    """A tenth of the weights' size, for linear layers and convolutions, one of them with a stride."""
    factors = functional.low_rank(backbone.denoiser, TARGETS, 1, torch.Generator())
    names = sorted({k.rpartition(".")[0] for k in factors})
    weights = {n: backbone.denoiser.get_parameter(f"{n}.weight") for n in names}
    assert {w.dim() for w in weights.values()} == {2, 4}
    assert any(getattr(backbone.denoiser.get_submodule(n), "stride", None) == (2, 2) for n in names)
    return {n: drawn(i, *w.shape) * 0.1 * w.float().std() for i, (n, w) in enumerate(weights.items())}


def output(backbone: Backbone) -> torch.Tensor:
    noisy = drawn(0, 2, *backbone.latent_shape)
    return backbone.predict(noisy, torch.tensor([20, 700]), backbone.encode_prompts(["a dog", "a vase"])).float()


def gradients_by_replacing(backbone: Backbone, changes: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """What the UNet answers with W + change in place of W, and the gradients of these weights."""
    values = {f"{n}.weight": backbone.denoiser.get_parameter(f"{n}.weight") + change for n, change in changes.items()}
    weights = backbone.replace_weights(values)
    found = output(backbone)
    found.square().sum().backward()
    grads = {n: weights[f"{n}.weight"].grad.clone() for n in changes}
    backbone.restore()
    return found.detach(), grads


@pytest.mark.parametrize("loading", [BackboneConfig(), BackboneConfig(gradient_checkpointing=True)])
def test_layers_answer_and_learn_as_if_the_change_were_in_their_weights(
    tiny_folder: Path, loading: BackboneConfig
) -> None:
    """Checkpointing calls the layers a second time, on the way back."""
    backbone = backbones.load(str(tiny_folder), loading=loading)
    changes = some_changes(backbone)
    plain = output(backbone).detach()
    expected, gradients = gradients_by_replacing(backbone, changes)
    leaves = {n: change.clone().requires_grad_(True) for n, change in changes.items()}
    with functional.adding(backbone.denoiser, leaves):
        found = output(backbone)
        found.square().sum().backward()
    assert float((expected - plain).abs().max()) > 1e-2
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-4)
    for name, leaf in leaves.items():
        assert gradients[name].abs().max() > 0
        torch.testing.assert_close(leaf.grad, gradients[name], atol=1e-4, rtol=1e-3)


def test_in_half_precision_the_change_stays_in_float32(tiny_folder: Path) -> None:
    backbone = backbones.load(str(tiny_folder), loading=BackboneConfig(dtype="bfloat16"))
    changes = {n: change.requires_grad_(True) for n, change in some_changes(backbone).items()}
    plain = output(backbone).detach()
    expected, _ = gradients_by_replacing(backbone, {n: change.detach() for n, change in changes.items()})
    with functional.adding(backbone.denoiser, changes):
        found = output(backbone)
        found.square().sum().backward()
    assert {change.grad.dtype for change in changes.values()} == {torch.float32}
    assert all(change.grad.abs().max() > 0 for change in changes.values())
    apart = float((expected - plain).abs().max())
    assert float((found.detach() - expected).abs().max()) < 0.3 * apart  # two roundings in place of one


def test_nothing_is_left_behind(tiny: Backbone) -> None:
    before, plain = fingerprint(tiny), output(tiny).detach()
    with pytest.raises(ZeroDivisionError), functional.adding(tiny.denoiser, some_changes(tiny)):
        assert not torch.equal(output(tiny), plain)
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in tiny.denoiser.modules())
    assert torch.equal(output(tiny), plain)
    tiny.restore()
    assert fingerprint(tiny) == before


def test_changes_are_read_anew_at_every_call(tiny: Backbone) -> None:
    plain, changes = output(tiny).detach(), {}
    with functional.adding(tiny.denoiser, changes):
        assert torch.equal(output(tiny), plain)
        (name, change), *_ = some_changes(tiny).items()
        changes[name] = change
        first = output(tiny).detach()
        changes[name] = 2 * change
        second = output(tiny).detach()
    assert not torch.equal(first, plain) and not torch.equal(first, second)


def test_every_picture_is_counted_once(tiny: Backbone) -> None:
    before = tiny.unet_evaluations
    with functional.adding(tiny.denoiser, some_changes(tiny)):
        output(tiny)
    assert tiny.unet_evaluations - before == 2


def test_factors_start_as_those_of_a_new_lora(tiny: Backbone) -> None:
    ours = functional.low_rank(tiny.denoiser, TARGETS, 3, torch.Generator().manual_seed(4))
    theirs = tiny.add_lora(3, TARGETS, torch.Generator().manual_seed(4))
    assert list(ours) == list(theirs)
    for name, factor in theirs.items():
        assert ours[name].requires_grad and ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name].flatten(1), factor.flatten(1))
        assert bool(ours[name].any()) is name.endswith("lora_A")
