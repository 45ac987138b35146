"""Pretraining: what is interrupted comes to the same, losses are the published ones, every stage learns and loads."""

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from cpbench.errors import UserError
from cpbench.miniature.pretrain import classifier, clip, data, dino, loop, stages, tokenizer, unet, vae
from cpbench.miniature.pretrain.loop import Recipe, learning_rate, train
from cpbench.miniature.world import NOUNS, SUBJECTS, subject

# The loop


class Small(nn.Module):
    """A matrix, a vector, a scale and, as batch normalisation has it, a counter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=noise))
        self.bias = nn.Parameter(torch.randn(3, generator=noise))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return x @ self.weight.T + self.bias


class Killed(Exception):
    pass


def step_of(model: Small, kill_at: int | None = None) -> loop.StepFunction:
    def step(i: int, rng: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        if i == kill_at:
            raise Killed
        x = torch.from_numpy(rng.normal(size=(8, 4))).float() + 0.1 * torch.randn(8, 4, generator=noise)
        return (model(x) - x[:, :3] ** 2).square().mean(), {"mean": float(x.mean())}

    return step


RECIPE = Recipe("small", steps=9, batch=8, lr=0.05, seed=4, warmup=3, weight_decay=0.2, ema=0.9, clip=0.5)


def bits(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in weights.items()}


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("kills", [(1,), (5,), (8,), (2, 3, 7)])
def test_killed_training_goes_on_to_the_same_bits(tmp_path: Path, kills: tuple[int, ...]) -> None:
    whole, broken = Small(0), Small(0)
    expected = train(whole, step_of(whole), RECIPE, tmp_path / "whole", report=silent)
    for kill_at in kills:
        with pytest.raises(Killed):
            train(broken, step_of(broken, kill_at), RECIPE, tmp_path / "broken", report=silent, every_seconds=0)
        broken = Small(99)  # a new process knows nothing
    said: list[str] = []
    found = train(broken, step_of(broken), RECIPE, tmp_path / "broken", report=said.append)
    assert f"resumes at step {kills[-1]} of 9" in said[0]
    assert bits(found) == bits(expected)
    assert bits(broken.state_dict()) == bits(whole.state_dict()) and int(whole.steps) == 9
    assert not list((tmp_path / "broken").glob("*.tmp")) and not list((tmp_path / "broken").glob(".*"))


def test_finished_training_returns_at_once(tmp_path: Path) -> None:
    model, other = Small(0), Small(99)
    expected = train(model, step_of(model), RECIPE, tmp_path, report=silent)
    before = (tmp_path / "small.pt").stat().st_mtime_ns
    assert bits(train(other, step_of(other, kill_at=0), RECIPE, tmp_path, report=silent)) == bits(expected)
    assert bits(other.state_dict()) == bits(model.state_dict())  # not averaged
    assert (tmp_path / "small.pt").stat().st_mtime_ns == before


def test_another_recipe_is_refused_by_name(tmp_path: Path) -> None:
    model = Small(0)
    train(model, step_of(model), RECIPE, tmp_path, report=silent)
    with pytest.raises(UserError, match=r"small\.pt.*steps 9 there, 12 here"):
        train(model, step_of(model), replace(RECIPE, steps=12), tmp_path, report=silent)


def test_steps_are_adamws_on_matrices_with_decay_and_the_average_follows(tmp_path: Path) -> None:
    model, by_hand = Small(0), Small(0)
    figures: list[list[float]] = []
    step = step_of(by_hand)

    def watched(i: int, rng: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        figures.append([rng.random(), float(torch.rand((), generator=noise))])
        again = np.random.default_rng(100 + i), torch.Generator().manual_seed(100 + i)
        return step_of(model)(i, *again)

    average = train(model, watched, RECIPE, tmp_path, report=silent)
    assert len(np.unique(figures)) == 18  # every step has generators of its own

    groups = [{"params": [by_hand.weight], "weight_decay": 0.2}, {"params": [by_hand.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    rates = [0.05 / 3, 0.10 / 3, 0.05]
    rates += [0.05 * (0.02 + 0.49 * (1 + math.cos(math.pi * k / 6))) for k in range(6)]
    slow = by_hand.weight.detach().clone()
    for i, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, _ = step(i, np.random.default_rng(100 + i), torch.Generator().manual_seed(100 + i))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        optimizer.step()
        decay = min(0.9, (i + 1) / (i + 10))
        slow = decay * slow + (1 - decay) * by_hand.weight.detach()
    torch.testing.assert_close(model.weight, by_hand.weight)
    torch.testing.assert_close(model.bias, by_hand.bias)
    torch.testing.assert_close(average["weight"], slow)
    assert int(average["steps"]) == 9


@pytest.mark.parametrize(
    ("step", "rate"),
    # warm-up to 2.0 over ten steps, then half a cosine over a hundred down to 2 %: 2 (0.02 + 0.98 (1 + cos) / 2)
    [(0, 0.2), (4, 1.0), (9, 2.0), (10, 2.0), (35, 1.7129646), (60, 1.02), (85, 0.3270354), (110, 0.04)],
)
def test_learning_rate_warms_up_and_falls(step: int, rate: float) -> None:
    recipe = Recipe("r", steps=110, batch=1, lr=2.0, warmup=10)
    assert learning_rate(recipe, step) == pytest.approx(rate, abs=1e-6)


# Losses


def test_clip_loss_is_the_cross_entropy_both_ways() -> None:
    noise = torch.Generator().manual_seed(0)
    image, text = (nn.functional.normalize(torch.randn(5, 7, generator=noise), dim=1) for _ in range(2))
    total = 0.0
    for i in range(5):
        rows = [7.5 * float(image[i] @ text[j]) for j in range(5)]
        columns = [7.5 * float(image[j] @ text[i]) for j in range(5)]
        for scores in (rows, columns):
            total -= math.log(math.exp(scores[i]) / sum(math.exp(s) for s in scores))
    assert float(clip.contrastive(image, text, torch.tensor(7.5))) == pytest.approx(total / 10, rel=1e-5)


def balanced(scores: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Sinkhorn-Knopp of (n, k) scores, number by number: every prototype equally used, then every row a distribution."""
    n, k = scores.shape
    q = [[math.exp(s / dino.TEACHER_TEMPERATURE) for s in row] for row in scores]
    for _ in range(rounds):
        for j in range(k):
            used = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] /= used * k
        for i in range(n):
            total = sum(q[i])
            q[i] = [v / total / n for v in q[i]]
    return np.array(q) * n


def test_targets_are_balanced_over_the_batch() -> None:
    scores = 0.2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = dino.sinkhorn(scores).numpy()
    np.testing.assert_allclose(found, balanced(scores.double().numpy()), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(dino.sinkhorn(scores, 200).sum(0), 6 / 4, rtol=1e-2)


def test_dino_loss_is_the_cross_entropy_of_each_view_with_the_others() -> None:
    views, n, k = 3, 4, 5
    noise = torch.Generator().manual_seed(0)
    student, teacher = (0.3 * torch.randn(views, n, k, generator=noise) for _ in range(2))
    s, t = student.double().numpy(), teacher.double().numpy()
    others = [np.mean([t[w, i] for w in range(views) if w != v], axis=0) for v in range(views) for i in range(n)]
    target = balanced(np.array(others)).reshape(views, n, k)
    total = 0.0
    for v in range(views):
        for i in range(n):
            below = sum(math.exp(x / dino.STUDENT_TEMPERATURE) for x in s[v, i])
            for j in range(k):
                total -= target[v, i, j] * (s[v, i, j] / dino.STUDENT_TEMPERATURE - math.log(below))
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    loss = dino.dino_loss(student, teacher)
    assert float(loss.detach()) == pytest.approx(total / (views * n), rel=1e-4)
    loss.backward()
    assert teacher.grad is None and student.grad is not None  # the teacher follows, it is not trained


def test_koleo_is_the_mean_log_distance_to_the_nearest() -> None:
    token = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 5
    unit = [v / np.linalg.norm(v) for v in token.double().numpy()]
    nearest = [min(np.linalg.norm(a - b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    assert float(dino.koleo(token)) == pytest.approx(-np.mean(np.log(nearest)), rel=1e-4)


def test_min_snr_weights() -> None:
    # SNR 1, 4, 9 and 99: min(SNR, 5) / SNR
    found = unet.min_snr_weight(torch.tensor([0.5, 0.8, 0.9, 0.99]))
    np.testing.assert_allclose(found, [1, 1, 5 / 9, 5 / 99], rtol=1e-5)


def test_noise_comes_faster_than_stable_diffusions_and_ends_where_it_ends() -> None:
    def ratios(schedule: dict) -> np.ndarray:
        ends = schedule["beta_start"], schedule["beta_end"]
        betas = (
            np.linspace(*ends, 1000)
            if schedule["beta_schedule"] == "linear"
            else np.linspace(*np.sqrt(ends), 1000) ** 2
        )
        left = np.cumprod(1 - betas)
        return left / (1 - left)

    theirs, ours = ratios(unet.STABLE_DIFFUSIONS), ratios(unet.SCHEDULER)
    assert theirs[-1] == pytest.approx(0.0047, abs=1e-4) and ours[-1] == pytest.approx(0.0040, abs=1e-4)
    assert (theirs > 1).sum() == 354 and (ours > 1).sum() < 120


# Words


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def pieces(words, text: str) -> list[str]:
    return words.convert_ids_to_tokens(words(text, add_special_tokens=False, truncation=False).input_ids)


def test_every_word_of_the_world_is_cut_as_clip_cuts_it(words) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer()
    every = tokenizer.words()
    assert len(every) > 80
    single = []
    for word in every:
        cut = [theirs.decoder[i] for i in theirs.encode(word)]
        assert pieces(words, word) == cut, word
        single += [word] if len(cut) == 1 else []
    assert {"sks", "rare", "dog", "cat", "backpack", "sneaker", "teapot", "vase", "toy", "snow"} <= set(single)
    assert len(single) > 0.95 * len(every)


def test_special_tokens_are_the_last_and_eos_the_highest(words) -> None:
    assert words.eos_token_id == len(words) - 1 == max(words.get_vocab().values())
    assert words.bos_token_id == len(words) - 2
    ids = words("a photo of a dog", padding="max_length", truncation=True).input_ids
    assert len(ids) == words.model_max_length == 32
    assert ids[0] == words.bos_token_id and ids.index(words.eos_token_id) == 6 and set(ids[6:]) == {words.eos_token_id}


# a capital sigma becomes one of two small ones, by what follows
@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\u03a3"), min_size=1, max_size=12))
def test_any_word_is_spelled_and_none_is_unknown(words, text: str) -> None:
    import unicodedata

    from open_clip.tokenizer import bytes_to_unicode

    ids = words(text, add_special_tokens=False, truncation=False).input_ids
    assert ids and not {words.eos_token_id, words.bos_token_id} & set(ids)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    spelled = "".join(words.convert_ids_to_tokens(ids)).replace("</w>", "")
    assert bytes(letters[c] for c in spelled).decode() == unicodedata.normalize("NFC", text).lower()


# Pictures


def test_pictures_are_drawn_the_same_twice_and_once_a_folder(tmp_path: Path) -> None:
    first, second = (data.load(tmp_path / name, 16, report=silent) for name in "ab")
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.captions, first.finishes, first.nouns) == (second.captions, second.finishes, second.nouns)
    assert first.images.shape == (16, 64, 64, 3) and first.images.dtype == np.uint8
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "a").iterdir()}
    np.testing.assert_array_equal(data.load(tmp_path / "a", 16, report=silent).images, first.images)
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "a").iterdir()} == before and len(before) == 2
    other = data.load(tmp_path / "a", 16, split="validation", report=silent)
    assert (other.images != first.images).any(axis=(1, 2, 3)).all()


def test_views_of_one_individual_stand_together(tmp_path: Path) -> None:
    pictures = data.load(tmp_path, 16, report=silent)
    assert data.VIEWS == 8 and [pictures.nouns[k] for k in (0, 8)] == list(NOUNS[:2])
    for start in (0, 8):
        assert len(set(pictures.nouns[start : start + 8])) == 1
        described = [data.describe_picture(k, "pretraining", 0) for k in range(start, start + 8)]
        assert len({who for who, *_ in described}) == 1
        assert len({setting for _, setting, *_ in described}) > 1
        assert [text for _, _, text, _ in described] == pictures.captions[start : start + 8]
    assert all(noun in text for noun, text in zip(pictures.nouns, pictures.captions, strict=True))
    tested = {subject(name) for name in SUBJECTS}
    assert not tested & {data.describe_picture(8 * k, "pretraining", 0)[0] for k in range(200)}


def test_dinos_views_show_the_identity(tmp_path: Path) -> None:
    pictures = data.load(tmp_path, 64, report=silent)
    people = dino.views(pictures)
    assert people and all({pictures.nouns[k] for g in some for k in g} == {noun} for noun, some in people.items())
    groups = [g for some in people.values() for g in some]
    for group in groups:
        assert len(group) >= dino.VIEWS and len(set(group // data.VIEWS)) == 1
        assert not {pictures.finishes[k] for k in group} & {"red", "purple", "cube shaped"}
    left_out = set(range(64)) - {int(k) for g in groups for k in g}
    whole = {int(g[0]) // data.VIEWS for g in groups}
    hidden = {k for k in range(64) if pictures.finishes[k] in ("red", "purple", "cube shaped")}
    assert {k for k in left_out if k // data.VIEWS in whole} == {k for k in hidden if k // data.VIEWS in whole}


# All stages, one step each


def shortest(recipe: Recipe, batch: int) -> Recipe:
    return replace(recipe, steps=1, batch=batch)


@pytest.fixture(scope="module")
def tiny_stages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        recipes = {"vae": vae.ENCODER, "vae-decoder": vae.DECODER, "clip-text": clip.TEXT}
        recipes |= {"clip-judge": clip.JUDGE, "unet": unet.FIRST, "unet-last": unet.LAST, "dino": dino.FIRST}
        recipes |= {"dino-last": dino.LAST, "dino-second": dino.SECOND, "classifier": classifier.RECIPE}
        batch = {"clip-text": 4, "clip-judge": 4, "dino": 3, "dino-last": 3, "dino-second": 3}
        tiny = {name: shortest(r, batch.get(name, 2)) for name, r in recipes.items()}
        assert set(tiny) == set(stages.RECIPES)
        patch.setattr(stages, "RECIPES", tiny)
        for module, name, key in (
            (vae, "ENCODER", "vae"),
            (vae, "DECODER", "vae-decoder"),
            (clip, "TEXT", "clip-text"),
            (clip, "JUDGE", "clip-judge"),
            (dino, "SECOND", "dino-second"),
            (classifier, "RECIPE", "classifier"),
        ):
            patch.setattr(module, name, tiny[key])
        for module, name, first in ((unet, "train_unet", "unet"), (dino, "train_dino", "dino")):
            both = tiny[first], tiny[f"{first}-last"]
            patch.setattr(module, name, functools.partial(getattr(module, name), recipes=both))
        patch.setattr(dino, "OF_A_CLASS", 1)  # eight individuals, no two of one class
        for name, n in (("PICTURES", 64), ("SECOND_PICTURES", 64)):
            patch.setattr(stages, name, n)
        yield


@pytest.fixture(scope="module")
def trained(tiny_stages: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """(work folder, weights, what was said) of a pretraining of one step a stage, the first stage alone before."""
    root = tmp_path_factory.mktemp("pretrain")
    said: list[str] = []
    with torch.random.fork_rng(devices=[]):
        stages.pretrain(("vae",), root / "work", root / "weights", "cpu", report=said.append)
        assert not (root / "weights").exists()
        stages.pretrain(stages.PARTS, root / "work", root / "weights", "cpu", report=said.append)
    return root / "work", root / "weights", said


def checkpoint(work: Path, name: str) -> dict:
    return torch.load(work / f"{name}.pt", weights_only=True)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Share of the tensors that differ; the names must be the same."""
    assert set(before) == set(after)
    return float(np.mean([not torch.equal(v, after[k]) for k, v in before.items()]))


def seeded(seed: int, build: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().state_dict()


def test_first_stage_alone_says_what_is_missing(trained: tuple[Path, Path, list[str]]) -> None:
    missing = [line for line in trained[2] if "not trained yet" in line]
    assert len(missing) == 1  # of two calls the second has all
    assert all(name in missing[0] for name in ("unet", "clip-text", "clip-judge", "dino"))
    assert "vae" not in missing[0].split(":", 1)[1]


def test_every_stage_changes_its_weights(trained: tuple[Path, Path, list[str]], words) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    work, _, _ = trained
    first = seeded(vae.ENCODER.seed, lambda: AutoencoderKL(**vae.CONFIG))
    assert changed(first, checkpoint(work, "vae")["average"]) > 0.95
    assert changed(seeded(unet.FIRST.seed, lambda: UNet2DConditionModel(**unet.CONFIG)), checkpoint(work, "unet")["average"]) > 0.95  # fmt: skip
    assert changed(checkpoint(work, "unet")["average"], checkpoint(work, "unet-last")["average"]) > 0.95
    assert changed(seeded(dino.FIRST.seed, dino.Network), {k.removeprefix("student."): v for k, v in checkpoint(work, "dino")["model"].items() if k.startswith("student.")}) > 0.9  # fmt: skip
    from open_clip.model import CLIP

    judge = seeded(clip.JUDGE.seed, lambda: CLIP(**clip.judge_config(len(words))))
    # each residual branch ends in a scale that starts at zero: after one step the layers before it have no gradient yet
    assert changed(judge, checkpoint(work, "clip-judge")["average"]) > 0.85
    assert changed(checkpoint(work, "dino")["model"], checkpoint(work, "dino-last")["model"]) > 0.9
    for name in stages.RECIPES:
        saved = checkpoint(work, name)
        assert saved["step"] == 1
        assert all(torch.isfinite(v).all() for v in saved["average"].values()), name


def test_second_stage_of_the_autoencoder_leaves_the_latents_as_they_were(trained: tuple[Path, Path, list[str]]) -> None:
    before, after = (checkpoint(trained[0], name) for name in ("vae", "vae-decoder"))
    moved = {k.split(".")[0] for k, v in before["average"].items() if not torch.equal(v, after["average"][k])}
    assert moved == {"decoder", "post_quant_conv"}


def test_teacher_follows_the_student(trained: tuple[Path, Path, list[str]]) -> None:
    weights = checkpoint(trained[0], "dino")["model"]
    start = seeded(dino.FIRST.seed, dino.Network)
    at = 1 - dino.TEACHER_MOMENTUM  # the share of the student after the first step
    for name in ("prototypes", "backbone.head.weight"):
        student, teacher = weights[f"student.{name}"], weights[f"teacher.{name}"]
        torch.testing.assert_close(teacher, (1 - at) * start[name] + at * student, rtol=1e-5, atol=1e-7)
        assert not torch.equal(teacher, start[name])


def test_weights_load_as_a_pipeline_and_judges_and_are_the_averages_in_half_precision(
    trained: tuple[Path, Path, list[str]],
) -> None:
    from cpbench.backbones import loading
    from cpbench.judges.local import load_clip, load_dino

    work, weights, _ = trained
    saved = load_file(weights / "unet" / "diffusion_pytorch_model.safetensors")
    average = checkpoint(work, "unet-last")["average"]
    assert set(saved) == set(average) and all(torch.equal(v, average[k].half()) for k, v in saved.items())
    words_of = {k.removeprefix("text_model."): v for k, v in load_file(weights / "text_encoder" / "model.safetensors").items()}  # fmt: skip
    trained_words = {k.removeprefix("text_model."): v for k, v in checkpoint(work, "clip-text")["average"].items() if k.startswith("text_model.")}  # fmt: skip
    assert words_of and all(torch.equal(v, trained_words[k].half()) for k, v in words_of.items())

    backbone = loading.load(str(weights))
    pictures = np.array(data.load(work, 64, report=silent).images[:3])
    latents, spread = backbone.encode_images(pictures)
    assert latents.shape == (3, *backbone.latent_shape) and torch.isfinite(latents).all() and (spread > 0).all()
    mean, std = (np.load(work / f"latents-64-{part}.npy").astype(np.float32) for part in ("mean", "std"))
    factor = backbone.vae.config.scaling_factor
    assert factor == pytest.approx(1 / math.sqrt(mean.var() + (std**2).mean()), rel=1e-4)
    np.testing.assert_allclose(latents.numpy(), mean[:3] * factor, atol=0.02 * float(latents.abs().max()))
    for judge in (
        load_clip(weights / "judges" / "clip"),
        load_dino(weights / "judges" / "dino"),
    ):
        np.testing.assert_allclose(np.linalg.norm(judge.images(pictures), axis=1), 1, atol=1e-5)
    assert json.loads((weights / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_pretraining_that_is_done_trains_nothing_and_writes_the_same(trained: tuple[Path, Path, list[str]]) -> None:
    work, weights, _ = trained
    checkpoints = {f.name: f.stat().st_mtime_ns for f in work.glob("*.pt")}
    written = {f: f.read_bytes() for f in weights.rglob("*.safetensors")}
    said: list[str] = []
    with torch.random.fork_rng(devices=[]):
        stages.pretrain(stages.PARTS, work, weights, "cpu", report=said.append)
    assert len(checkpoints) == 10 and {f.name: f.stat().st_mtime_ns for f in work.glob("*.pt")} == checkpoints
    assert not [line for line in said if "step 1 of 1 " in line]
    assert {f: f.read_bytes() for f in weights.rglob("*.safetensors")} == written and len(written) == 5
