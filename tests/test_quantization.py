"""Linear layers in 8 and 4 bits: the numbers, a LoRA beside them, what is restored, and a run by the command line."""

import sys
from collections.abc import Callable
from pathlib import Path

import learners
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.quantization import dense, held, is_quantized, quantize
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.errors import UserError
from cpbench.learning import ATTENTION
from cpbench.registry import load_method

pytest.importorskip("torchao")
BITS = ("int8", "nf4")
# Dettmers et al. 2023, appendix E
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def layer_of(out: int, width: int) -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(width, out), nn.LayerNorm(out)).requires_grad_(False)
    layer[0].weight.copy_(torch.randn(out, width, generator=torch.Generator().manual_seed(0)) * 0.02)
    return layer


def test_int8_has_one_scale_for_each_output() -> None:
    network = layer_of(40, 64)
    W = network[0].weight.clone()
    quantize(network, "int8")
    scale = W.abs().amax(1, keepdim=True) / 127
    assert is_quantized(network[0].weight) and not is_quantized(network[1].weight)
    assert ((dense(network[0].weight) - W).abs() <= 0.51 * scale).all()
    assert sum(t.numel() * t.element_size() for t in held(network[0].weight)) < 1.2 * W.numel()


def test_nf4_has_the_papers_levels_in_blocks_of_64() -> None:
    network = layer_of(48, 48)
    W = network[0].weight.clone()
    quantize(network, "nf4")
    blocks = W.view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / scale[..., None] - torch.tensor(LEVELS)).abs().argmin(-1)
    expected = torch.tensor(LEVELS)[nearest] * scale
    far = (dense(network[0].weight).view(-1, 64) - expected).abs()
    assert (far <= 0.02 * scale).all()  # the scales themselves are in 8 bits
    assert held(network[0].weight)[0].numel() == W.numel() // 2


def test_a_layer_that_does_not_fill_blocks_stays_whole() -> None:
    network = layer_of(3, 5)
    quantize(network, "nf4")
    assert not is_quantized(network[0].weight)


@pytest.fixture(scope="module", params=BITS)
def quantized(request: pytest.FixtureRequest) -> Backbone:
    return loading.load("miniature", loading=BackboneConfig(quantization=request.param))


def whole_copy(backbone: Backbone) -> Backbone:
    """The miniature with the numbers that the quantized weights stand for."""
    plain = loading.load("miniature")
    for name, layer in plain.denoiser.named_modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = dense(backbone.denoiser.get_submodule(name).weight).data.clone()
    plain._pristine = {name: (tensor, tensor._version) for name, tensor in plain._tensors()}
    return plain


def learned(backbone: Backbone) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of one LoRA step from one state and batch."""
    row = backbone.add_token("<v1>", backbone.word_embedding("dog"))
    parameters = backbone.add_lora(4, ATTENTION, torch.Generator().manual_seed(0))
    for name, B in parameters.items():
        if name.endswith("lora_B"):
            B.data = torch.randn(B.shape, generator=torch.Generator().manual_seed(len(name))) * 0.02
    backbone.train_only([row, *parameters.values()])
    g = torch.Generator().manual_seed(1)
    z, eps = (torch.randn(2, *backbone.latent_shape, generator=g) for _ in range(2))
    t = backbone.process.evenly(2)
    prompt_embeds = backbone.encode_prompts(["a photo of a <v1> dog", "a <v1> dog in the snow"])
    loss = F.mse_loss(backbone.predict(backbone.process.noised(z, eps, t), t, prompt_embeds), eps)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in (*parameters.items(), ("row", row))}
    return float(loss), gradients


def test_a_lora_beside_quantized_weights_is_one_beside_the_numbers_they_stand_for(quantized: Backbone) -> None:
    before, plain = fingerprint(quantized), whole_copy(quantized)
    assert all(is_quantized(m.weight) for m in quantized.denoiser.modules() if isinstance(m, nn.Linear))
    (loss, gradients), (expected, others) = learned(quantized), learned(plain)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in others.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7)
    requests = [SampleRequest("a <v1> dog on the beach", 0, "dog", "a {}", k) for k in range(2)]
    a, b = (generate(model, requests, Sampler(num_inference_steps=3)) for model in (quantized, plain))
    assert abs(a.astype(int) - b).max() <= 2
    quantized.restore()
    assert fingerprint(quantized) == before


@pytest.mark.parametrize("name", ("seqlora", "clora", "customdiffusion", "dcscore"))
def test_methods_learn_on_quantized_weights_and_leave_no_trace(
    name: str, quantized: Backbone, make_task: Callable
) -> None:
    kind, before = load_method(name), fingerprint(quantized)
    few = {k: v for k, v in learners.SHORT.items() if k in kind.Options.model_fields}
    state = learners.tasks(kind, quantized, make_task, 2, **few)[-1].state
    method = kind(kind.Options(**few))
    prompt = f"a photo of a {method.phrase('dog', 'dog', state)}"
    drawn = []
    for given, text in ((None, "a photo of a dog"), (state, prompt)):
        with quantized.installed(method, given, ("dog",), (prompt,)):
            drawn.append(generate(quantized, [SampleRequest(text, 0, "dog", "a {}", 0)], Sampler(2)))
    assert not np.array_equal(*drawn) and fingerprint(quantized) == before


def test_a_run_is_made_sampled_and_exported_by_the_command_line(tmp_path: Path, call: Callable, short: Path) -> None:
    words = ["--sequence", short, "--quantization", "nf4", "--text-encoder-quantization", "int8", "--device", "cpu"]
    words += ["--no-overlap", "--output", tmp_path / "out", "--set", "steps=2", "--set", "batch_size=1"]
    for method in ("seqlora", "mergeinit"):  # a LoRA, and whole weights
        code, _, said = call("run", "--method", method, *words)
        assert code == 0, said
    records = {record.parents[2].name: record.parent for record in (tmp_path / "out").rglob("run.json")}
    for method, folder in records.items():
        code, _, said = call("sample", folder, "--prompt", "a {dog}", "-n", 1, "--output", tmp_path / method)
        assert code == 0 and (tmp_path / method / "00.png").is_file(), said
    code, _, said = call("export", records["seqlora"], tmp_path / "lora")
    text = (tmp_path / "lora" / "README.md").read_text()
    assert code == 0 and "with transformer or UNet in nf4 and text encoders in int8" in text, said
    code, _, said = call("export", records["mergeinit"], tmp_path / "whole")
    assert code == 2 and "in int8 cannot be written; use `cpbench sample`" in said


@pytest.mark.parametrize("adapter_type", ("vera", "dora"))
def test_a_relative_of_lora_is_refused_in_one_line(quantized: Backbone, adapter_type: str) -> None:
    before = fingerprint(quantized)
    with pytest.raises(UserError, match=f"adapter={adapter_type}: needs weights that are not quantized"):
        quantized.add_lora(2, ("to_q",), torch.Generator().manual_seed(0), adapter_type=adapter_type)
    quantized.restore()
    assert fingerprint(quantized) == before


def test_the_hash_of_a_run_tells_quantized_weights_apart() -> None:
    hashes = {
        loading.load("miniature", loading=BackboneConfig(**options)).weights_hash
        for options in ({}, {"quantization": "int8"}, {"quantization": "nf4"}, {"text_encoder_quantization": "int8"})
    }
    assert len(hashes) == 4


def test_a_text_encoder_in_8_bits_still_learns_a_word() -> None:
    backbone = loading.load("miniature", loading=BackboneConfig(text_encoder_quantization="int8"))
    assert any(is_quantized(p) for p in backbone.text_encoder.parameters())
    plain = loading.load("miniature")
    states = []
    for model in (backbone, plain):
        row = model.add_token("<v1>", model.word_embedding("dog"))
        row.requires_grad_(True)
        out = model.encode_prompts(["a <v1>"])
        out.square().mean().backward()
        states.append((out.detach(), row.grad))
        model.restore()
    (out, gradient), (expected, other) = states
    assert (out - expected).abs().mean() < 0.03 * expected.abs().mean()
    assert F.cosine_similarity(gradient, other, dim=0) > 0.98


def test_without_torchao_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="torchao is not installed; pip install"):
        quantize(layer_of(4, 4), "int8")
