"""Tokenizers and tables of different lengths: a new word's row is found by its id, and every other word keeps its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.errors import UserError
from cpbench.miniature.pretrain.tokenizer import save_tokenizer

TABLE = "text_model.embeddings.token_embedding.weight"


def longer_table(folder: Path, copy: Path, rows: int) -> Path:
    """The pipeline with a table of `rows` more rows than its tokenizer has words, filled with large numbers."""
    shutil.copytree(folder, copy)
    file = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(k for k in tensors if k.endswith("token_embedding.weight"))
    tensors[name] = torch.cat([tensors[name], torch.full((rows, tensors[name].shape[1]), 50.0)])
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((copy / "text_encoder" / "config.json").read_text())
    config["vocab_size"] = len(tensors[name])
    (copy / "text_encoder" / "config.json").write_text(json.dumps(config))
    return copy


def means_the_same(backbone: Backbone) -> None:
    """A new word whose row is a copy of a known one's has its states, bit for bit, and leaves no trace."""
    before, plain = fingerprint(backbone), backbone.encode_prompts(["a photo of a dog", "a photo of a cat"])
    backbone.add_token("<v1>", backbone.word_embedding("dog"))
    backbone.add_token("<v2>", backbone.word_embedding("cat"))
    assert torch.equal(backbone.encode_prompts(["a photo of a <v1>", "a photo of a <v2>"]), plain)
    assert torch.equal(backbone.encode_prompts(["a photo of a dog", "a photo of a cat"]), plain)
    backbone.restore()
    assert fingerprint(backbone) == before


@pytest.mark.parametrize("rows", [0, 1, 64])
def test_a_table_longer_than_its_tokenizer(tiny_folder: Path, tmp_path: Path, rows: int) -> None:
    backbone = loading.load(str(longer_table(tiny_folder, tmp_path / "copy", rows)))
    backbone.check(2)
    means_the_same(backbone)
    # rows that no word has are no sample of what embeddings are like
    assert backbone.random_embedding(torch.Generator().manual_seed(0)).abs().max() < 10


def test_words_that_the_tokenizer_alone_has(tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    backbone = loading.load(str(copy))
    tokenizer = backbone.tokenizer
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(copy / "tokenizer")
    backbone = loading.load(str(copy))
    backbone.check(2)
    means_the_same(backbone)
    with pytest.raises(UserError, match="has the word '<extra>', for which its text encoder has no embedding"):
        backbone.encode_prompts(["a <extra>"])


def test_a_pipeline_that_has_our_words_already(tiny_folder: Path, tmp_path: Path) -> None:
    """What an export makes of one: loaded by diffusers with its learned word, and saved."""
    backbone = loading.load(str(tiny_folder))
    save_file({"<v1>": 3 * backbone.word_embedding("vase")}, tmp_path / "v1.safetensors")
    backbone.pipe.load_textual_inversion(str(tmp_path / "v1.safetensors"))
    backbone.pipe.save_pretrained(tmp_path / "with")
    backbone = loading.load(str(tmp_path / "with"))
    theirs = backbone.encode_prompts(["a photo of a <v1>"])
    backbone.check(2)
    means_the_same(backbone)
    assert torch.equal(backbone.encode_prompts(["a photo of a <v1>"]), theirs)


@pytest.mark.parametrize("harm", ["vae", "inpainting", "width"])
def test_parts_that_do_not_fit_are_one_line_at_load(tiny_folder: Path, tmp_path: Path, harm: str) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    if harm == "vae":
        config = AutoencoderKL.load_config(copy / "vae") | {"latent_channels": 16}
        AutoencoderKL.from_config(config).save_pretrained(copy / "vae")
    else:
        more = {"in_channels": 9} if harm == "inpainting" else {"cross_attention_dim": 24}
        config = UNet2DConditionModel.load_config(copy / "unet") | more
        UNet2DConditionModel.from_config(config).save_pretrained(copy / "unet")
    with pytest.raises(UserError) as caught:
        loading.load(str(copy))
    assert str(copy) in str(caught.value)


def test_a_tokenizer_that_cannot_merge_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    file = copy / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:5]
    file.write_text(json.dumps(content))
    if (merges := copy / "tokenizer" / "merges.txt").is_file():
        merges.write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="merge"):
        loading.load(str(copy))


# Pieces


def with_clips_tokenizer(tiny_folder: Path, copy: Path) -> Path:
    """The pipeline with CLIP's own tokenizer, of the merges that open_clip ships, and a random table of its length."""
    size = len(loading.load(str(tiny_folder)).tokenizer)
    folder = longer_table(tiny_folder, copy, 49408 - size)
    shutil.rmtree(folder / "tokenizer")
    save_tokenizer(folder / "tokenizer", whole=True)
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    name = next(k for k in tensors if k.endswith("token_embedding.weight"))
    tensors[name] = 0.5 * torch.randn(49408, 16, generator=torch.Generator().manual_seed(0))
    save_file(tensors, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_piece_is_its_own_row_of_clips_table_and_not_the_words(tiny_folder: Path, tmp_path: Path) -> None:
    """Custom Diffusion's initial words: the ids of its paper's code, which asks the table and not the tokenizer."""
    backbone = loading.load(str(with_clips_tokenizer(tiny_folder, tmp_path / "copy")))
    table = backbone.vocabulary.encoders[0].table.weight.detach()
    for piece, row in {"ktn": 42170, "pll": 47629, "ucd": 44746}.items():
        torch.testing.assert_close(backbone.piece_embedding(piece), table[row])
    assert backbone.tokenizer("ktn", add_special_tokens=False).input_ids == [74, 7248]
    torch.testing.assert_close(backbone.word_embedding("ktn"), table[[74, 7248]].mean(0))


def test_what_is_no_piece_is_the_mean_of_its_tokens_and_a_line_says_so(
    tiny: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.testing.assert_close(tiny.piece_embedding("ktn"), tiny.word_embedding("ktn"))
    assert "'ktn' is no piece of tokenizer: the mean of its 3 tokens is taken" in "".join(capsys.readouterr())
    torch.testing.assert_close(tiny.piece_embedding("rare"), tiny.word_embedding("rare"))  # one token
    assert "piece" not in "".join(capsys.readouterr())
