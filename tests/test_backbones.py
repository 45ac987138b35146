"""The backbone: whatever a method does to it, `restore` undoes, and learned words go through the text encoder."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cpbench import adapters, backbones, config
from cpbench.audit import RulesError
from cpbench.backbones import MINIATURE, Backbone, fingerprint
from cpbench.errors import UserError
from cpbench.method import Method, State, Task

MakeTask = Callable[..., Task]
SMALL = {"rank": 2, "steps": 2, "batch_size": 1}  # of a method's options, those that it has


class Stop(Exception):
    """A failure in the middle of learning."""


def new_method(name: str) -> Method:
    kind = config.load_method(name)
    return kind(kind.Options(**{k: v for k, v in SMALL.items() if k in kind.Options.model_fields}))


def value(backbone: Backbone, seed: int = 0) -> torch.Tensor:
    width = backbone.word_embedding("dog").shape
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


# Pristine


@pytest.mark.parametrize("name", config.built_in_methods())
def test_a_whole_sequence_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    before, state = fingerprint(tiny), None
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


@pytest.mark.parametrize(
    "name", [n for n in config.built_in_methods() if "steps" in config.load_method(n).Options.model_fields]
)
def test_a_failure_while_learning_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    def stop(step: int, **figures: float) -> None:
        raise Stop

    before = fingerprint(tiny)
    with pytest.raises(Stop):
        new_method(name).learn(tiny, make_task(tiny, log=stop), None)
    assert differing(before, fingerprint(tiny)) != []
    tiny.restore()
    assert differing(before, fingerprint(tiny)) == []


@pytest.mark.parametrize("name", [n for n in config.built_in_methods() if n != "base"])
def test_a_failure_while_installing_leaves_no_trace(tiny: Backbone, make_task: MakeTask, name: str) -> None:
    state = new_method(name).learn(tiny, make_task(tiny), None)
    tiny.restore()
    before = fingerprint(tiny)
    for lost in (list(state.tensors)[0], list(state.tensors)[-1]):
        damaged = State({k: v for k, v in state.tensors.items() if k != lost}, state.facts)
        with pytest.raises(KeyError), tiny.installed(new_method(name), damaged, ("dog",)):
            pass
        assert differing(before, fingerprint(tiny)) == []


def test_a_failure_while_drawing_leaves_no_trace(tiny: Backbone, make_task: MakeTask) -> None:
    state = new_method("seqlora").learn(tiny, make_task(tiny), None)
    tiny.restore()
    before = fingerprint(tiny)
    with pytest.raises(Stop), tiny.installed(new_method("seqlora"), state, ("dog",)):
        assert differing(before, fingerprint(tiny)) != []
        raise Stop
    assert differing(before, fingerprint(tiny)) == []


def test_the_fingerprint_sees_each_kind_of_change(tiny_folder: Path) -> None:
    own = backbones.load(str(tiny_folder))  # changed behind its back: no other test may use it
    before = fingerprint(own)
    weight = own.unet.conv_in.weight
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
    own = backbones.load(str(tiny_folder))
    with torch.no_grad():
        own.unet.conv_in.weight.mul_(0.2)
    with pytest.raises(RulesError, match="unet.conv_in.weight"):
        own.restore()
    other = backbones.load(str(tiny_folder))
    other.unet.conv_in.weight = torch.nn.Parameter(other.unet.conv_in.weight.detach().clone())
    with pytest.raises(RulesError, match="unet.conv_in.weight"):
        other.restore()


def test_changes_while_installing_are_refused_before_anything_is_drawn(tiny_folder: Path) -> None:
    class Dirty(Method):
        def install(self, backbone, state, concepts):
            with torch.no_grad():
                backbone.unet.conv_in.weight.mul_(0.2)

    own, drawn = backbones.load(str(tiny_folder)), []
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
    assert tiny.factors is first and tiny.installed_hash() == installed
    tiny.restore()
    tiny.add_lora(1, ["to_k"], torch.Generator())


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
            tiny.unet(torch.zeros(n, *tiny.latent_shape), 5, words.expand(n, -1, -1))
        tiny.unet(sample=torch.zeros(2, *tiny.latent_shape), timestep=5, encoder_hidden_states=words.expand(2, -1, -1))
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
from cpbench import torchvision_cure
torchvision_cure.apply()
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
    assert ours == ["cpbench", "cpbench.torchvision_cure"]


def test_the_backbone_draws_as_plain_diffusers_does(tiny: Backbone, tiny_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    def picture(pipe: StableDiffusionPipeline) -> torch.Tensor:
        noise = torch.Generator().manual_seed(3)
        return torch.tensor(pipe("a dog", num_inference_steps=2, generator=noise, output_type="np").images)

    plain = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    assert torch.equal(picture(tiny.pipe), picture(plain))


def test_loaded_parts_are_frozen_and_in_evaluation_mode(tiny: Backbone) -> None:
    for part in (tiny.unet, tiny.vae, tiny.text_encoder):
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(m.training for m in part.modules())


@pytest.mark.parametrize(
    ("name", "said"),
    [("miniture", "'miniature'"), ("Miniature", "'miniature'"), ("stable-diffusion-9", "miniature")],
)
def test_an_unknown_backbone_gets_the_near_match(name: str, said: str) -> None:
    with pytest.raises(UserError, match="unknown backbone") as caught:
        backbones.load(name)
    assert repr(name) in str(caught.value) and said in str(caught.value)


def test_a_folder_without_a_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index.json") as caught:
        backbones.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_pipeline_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="FluxPipeline"):
        backbones.load(str(tmp_path))


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
