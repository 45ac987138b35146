"""The second miniature: its stages of training, and the folder that is put together from both miniatures' parts."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpbench.backbones import loading
from cpbench.backbones.hub import MINIATURE
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.miniature import flow_folder
from cpbench.miniature.pretrain import flow, stages

PICTURES = 48


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a transformer after two stages of three steps."""
    place = tmp_path_factory.mktemp("flow")
    output = place / "weights"
    output.mkdir()
    for part in ("vae", "text_encoder", "tokenizer"):
        (output / part).symlink_to(MINIATURE / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "PICTURES", PICTURES)
        short = tuple(replace(recipe, steps=3, batch=8) for recipe in flow.STAGES[:2])
        patch.setattr(flow, "STAGES", short)
        said: list[str] = []
        stages.pretrain_flow(place / "work", output, "cpu", said.append)
        assert [line for line in said if "wrote" in line] == [
            f"wrote stage {k} of 2 to {output / 'transformer'}" for k in (1, 2)
        ]
        said.clear()
        stages.pretrain_flow(place / "work", output, "cpu", said.append)  # there is nothing left to do
        assert not said
    return output / "transformer"


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("assembled") / "pipeline"
    flow_folder.write(MINIATURE, trained, target)
    return target


def test_a_stage_begins_with_the_weights_of_the_one_before(trained: Path) -> None:
    assert flow.stage_of(trained) == 2 and flow.stage_of(trained.parent / "elsewhere") == 0
    weights = flow.weights_of(trained)
    assert sum(w.numel() for name, w in weights.items() if "pos_embed.pos_embed" not in name) == 5_461_600
    first = torch.load(trained.parents[1] / "work" / "flow-1.pt", weights_only=True)["average"]
    second = torch.load(trained.parents[1] / "work" / "flow-2.pt", weights_only=True)["model"]
    name = "transformer_blocks.0.attn.to_q.weight"
    far = float((weights[name] - first[name]).abs().max())
    assert 0 < far < 3 * flow.STAGES[1].lr  # three steps of AdamW in the warm-up, from the first stage's
    assert float((second[name] - first[name]).abs().max()) < 3 * flow.STAGES[1].lr


def digest(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_folder_has_the_same_bytes_each_time(trained: Path, folder: Path, tmp_path: Path) -> None:
    flow_folder.write(MINIATURE, trained, tmp_path / "again")
    assert digest(folder) == digest(tmp_path / "again")


@torch.no_grad()
def test_diffusers_own_call_draws_the_same(folder: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    plain = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    plain.set_progress_bar_config(disable=True)
    backbone = loading.load(str(folder))
    assert backbone.latent_shape == (8, 16, 16) and backbone.family.t5_tokens == 0
    requests = [SampleRequest(p, 0, "dog", "a {}", k) for k, p in enumerate(("a photo of a dog", "a red vase"))]
    ours = generate(backbone, requests, Sampler(num_inference_steps=3, guidance_scale=4.0, batch_size=2))
    for picture, request in zip(ours, requests, strict=True):
        (theirs,) = plain(
            request.prompt,
            latents=noise(backbone, request)[None],
            num_inference_steps=3,
            guidance_scale=4.0,
            max_sequence_length=0,
            output_type="np",
        ).images
        assert abs(theirs * 255 - picture).max() <= 1


@torch.no_grad()
def test_training_sees_the_text_as_the_pipeline_does(folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = CLIPTextModel.from_pretrained(MINIATURE / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(MINIATURE / "tokenizer")
    states, pooled, place = flow.encode_captions(encoder, tokenizer, ["a red dog", "a cat", "a red dog"])
    assert place.tolist() == [2, 1, 2] and len(states) == 3
    backbone = loading.load(str(folder))
    given = backbone.family.arguments(backbone.encode_prompts(["", "a cat", "a red dog"]), 64, torch.float32)
    torch.testing.assert_close(states.float(), given["encoder_hidden_states"], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pooled.float(), given["pooled_projections"], rtol=2e-3, atol=2e-3)
