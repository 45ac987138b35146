"""Drawing: noise by key alone, the same picture in any batch, nothing drawn twice, nothing left behind."""

import hashlib
import io
import os
import shutil
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpbench.backbones import loading, sampling
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.records import machine
from cpbench.records import machine as machine_module
from cpbench.records.pictures import CachedPicture, place, png_bytes, read_picture
from cpbench.running import picture_cache
from cpbench.running.picture_cache import picture_key
from cpbench.running.writing import Writer

TWO_STEPS = Sampler(num_inference_steps=2, guidance_scale=4.0, batch_size=4)
CELL = [
    SampleRequest(template.format("dog"), 0, "dog", template, index)
    for template in ("a {} in the snow", "a purple {}")
    for index in (0, 1)
]
OTHERS = {
    "prompt": "a dog on the beach",
    "seed": 1,
    "concept": "dog2",
    "template": "a {} on the beach",
    "index": 7,
}


def files_of(folder: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in folder.rglob("*.png")}


def generate_once(
    backbone: Backbone, requests: list[SampleRequest], sampler: Sampler, cache: Path
) -> tuple[np.ndarray, list[CachedPicture], int]:
    """`picture_cache.generate_once` with everything written."""
    with Writer(backbone.device) as writer:
        pictures, files, generated = picture_cache.generate_once(backbone, requests, sampler, cache, writer)
    return pictures, [file.result() for file in files], generated


def with_word(backbone: Backbone) -> None:
    backbone.add_token("<v1>", backbone.word_embedding("cat"))


# Noise


def test_noise_is_seeded_by_the_hash_of_seed_concept_prompt_and_index(tiny: Backbone) -> None:
    for want in (CELL[0], SampleRequest("whatever", 12, "cat2", "a wet {}", 3)):
        words = f"{want.seed}/noise/{want.concept}/{want.template}/{want.index}"
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") // 2
        expected = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        assert torch.equal(noise(tiny, want), expected)


def test_noise_depends_on_its_four_words_and_on_nothing_else(tiny: Backbone) -> None:
    first = noise(tiny, CELL[0])
    for name in ("seed", "concept", "template", "index"):
        assert not torch.equal(first, noise(tiny, replace(CELL[0], **{name: OTHERS[name]}))), name
    torch.manual_seed(99)
    assert torch.equal(first, noise(tiny, replace(CELL[0], prompt=OTHERS["prompt"])))
    with_word(tiny)
    assert torch.equal(first, noise(tiny, CELL[0]))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_unet_begins_with_that_noise_in_any_batch(tiny: Backbone, batch_size: int) -> None:
    """What enters the first evaluation of each pipeline call, the unguided half and the guided half."""
    seen: list[torch.Tensor] = []
    hook = tiny.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        generate(tiny, CELL, replace(TWO_STEPS, batch_size=batch_size))
    finally:
        hook.remove()
    begun = torch.cat([x.chunk(2)[0] for x in seen[::2]])
    assert torch.equal(begun, torch.cat([x.chunk(2)[1] for x in seen[::2]]))
    assert torch.equal(begun, torch.stack([noise(tiny, w) for w in CELL]))


# Pictures


def test_a_picture_is_the_same_alone_and_in_a_batch(miniature: Backbone) -> None:
    together = generate(miniature, CELL, TWO_STEPS)
    alone = generate(miniature, CELL, replace(TWO_STEPS, batch_size=1))
    assert together.shape == (4, 64, 64, 3) and together.dtype == np.uint8
    assert int(np.abs(together.astype(int) - alone).max()) <= 2
    between = np.abs(together[:, None].astype(int) - together[None]).max((2, 3, 4)) + 99 * np.eye(4, dtype=int)
    assert int(between.min()) > 2


def test_pictures_come_in_the_order_asked_for(tiny: Backbone) -> None:
    sampler = replace(TWO_STEPS, batch_size=1)
    forwards, backwards = generate(tiny, CELL, sampler), generate(tiny, CELL[::-1], sampler)
    assert np.array_equal(forwards, backwards[::-1])


def test_drawing_is_the_pipeline_with_the_same_solver_and_noise(tiny: Backbone) -> None:
    """One picture against diffusers' own loop, spelled out: guidance, solver, decoding, rounding."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(tiny.pipe.scheduler.config)
    scheduler.set_timesteps(3)
    ids = tiny.tokenizer(["", CELL[0].prompt], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        words, z = tiny.text_encoder(ids).last_hidden_state, noise(tiny, CELL[0])[None]
        for t in scheduler.timesteps:
            plain, guided = tiny.denoiser(torch.cat([z, z]), t, words).sample.chunk(2)
            z = scheduler.step(plain + 4.0 * (guided - plain), t, z).prev_sample
        pixels = (tiny.vae.decode(z / 0.5).sample[0] / 2 + 0.5).clamp(0, 1).movedim(0, 2)
    expected = np.rint(pixels.numpy() * 255)
    got = generate(tiny, CELL[:1], Sampler(3, 4.0, 1))[0]
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize(("guidance", "factor"), [(4.0, 2), (1.0, 1), (0.0, 1)])
def test_guidance_doubles_the_evaluations(tiny: Backbone, guidance: float, factor: int) -> None:
    before = tiny.unet_evaluations
    generate(tiny, CELL[:3], Sampler(3, guidance, 2))
    assert tiny.unet_evaluations - before == 3 * 3 * factor


def test_the_scheduler_is_put_back(tiny: Backbone) -> None:
    scheduler, before, config = tiny.pipe.scheduler, fingerprint(tiny), dict(tiny.pipe.scheduler.config)
    generate(tiny, CELL, TWO_STEPS)
    assert tiny.pipe.scheduler is scheduler and dict(scheduler.config) == config
    assert fingerprint(tiny) == before


def test_the_scheduler_is_put_back_after_a_failure(tiny: Backbone) -> None:
    class Stop(Exception):
        pass

    def stop(module: torch.nn.Module, args: tuple) -> None:
        assert tiny.pipe.scheduler is not scheduler
        raise Stop

    scheduler = tiny.pipe.scheduler
    hook = tiny.denoiser.register_forward_pre_hook(stop)
    try:
        with pytest.raises(Stop):
            generate(tiny, CELL, TWO_STEPS)
    finally:
        hook.remove()
    assert tiny.pipe.scheduler is scheduler


def test_a_solver_does_not_remember_the_last_call(tiny: Backbone) -> None:
    first = generate(tiny, CELL[:1], Sampler(3, 4.0, 1))
    generate(tiny, CELL[1:], Sampler(5, 2.0, 3))
    assert np.array_equal(first, generate(tiny, CELL[:1], Sampler(3, 4.0, 1)))


# Keys


def test_a_key_changes_with_each_ingredient(tiny: Backbone) -> None:
    assert {f.name for f in fields(SampleRequest)} == OTHERS.keys()
    met = [picture_key("installed", CELL[0], TWO_STEPS, tiny), picture_key("other", CELL[0], TWO_STEPS, tiny)]
    met += [picture_key("installed", replace(CELL[0], **{k: v}), TWO_STEPS, tiny) for k, v in OTHERS.items()]
    changes = {"num_inference_steps": 3, "guidance_scale": 4.5, "batch_size": 5}
    assert {f.name for f in fields(Sampler)} == changes.keys()
    met += [picture_key("installed", CELL[0], replace(TWO_STEPS, **{k: v}), tiny) for k, v in changes.items()]
    assert len(set(met)) == len(met) == 10
    assert picture_key("installed", CELL[0], TWO_STEPS, tiny) == met[0]


def test_a_key_changes_with_what_computes(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return picture_key("installed", CELL[0], TWO_STEPS, tiny)

    met = [key()]
    with monkeypatch.context() as other:
        other.setattr(picture_cache, "SCORES", picture_cache.SCORES + 1)
        met.append(key())
    for name in ("torch", "diffusers", "transformers", "peft"):
        with monkeypatch.context() as other:
            there = machine_module.versions()
            other.setattr(machine_module, "versions", lambda there=there, name=name: there | {name: "0.0.1"})
            met.append(key())
    with monkeypatch.context() as other:
        other.setattr(torch, "get_num_threads", lambda: 7)
        met.append(key())
    with monkeypatch.context() as other:
        other.setattr(machine, "processor", lambda: "another")
        met.append(key())
    assert len(set(met)) == len(met) == 8
    with monkeypatch.context() as other:  # what judges moves no picture
        other.setattr(machine_module, "versions", lambda: there | {"open_clip_torch": "0.0.1", "timm": "0.0.1"})
        assert key() == met[0]


def test_a_key_changes_with_the_precision(tiny: Backbone, tiny_folder: Path) -> None:
    half = loading.load(str(tiny_folder), loading=BackboneConfig(dtype="bfloat16"))
    assert picture_key("installed", CELL[0], TWO_STEPS, half) != picture_key("installed", CELL[0], TWO_STEPS, tiny)


def test_a_key_changes_with_the_size_of_the_picture(tiny: Backbone, tiny_folder: Path) -> None:
    larger = loading.load(str(tiny_folder), loading=BackboneConfig(resolution=2 * tiny.picture_size))
    assert picture_key("installed", CELL[0], TWO_STEPS, larger) != picture_key("installed", CELL[0], TWO_STEPS, tiny)


# Drawn once


def test_what_was_drawn_is_not_drawn_again(tiny: Backbone, tmp_path: Path) -> None:
    pictures, kept, drawn = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    assert drawn == len(CELL) == len(set(kept)) and np.array_equal(pictures, generate(tiny, CELL, TWO_STEPS))
    for one, picture in zip(kept, pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(one.file)), picture)
        assert hashlib.sha256(one.file.read_bytes()).hexdigest() == one.sha256 and one.sha256 in one.file.name
        assert stat.S_IMODE(one.file.stat().st_mode) == 0o444
    before, there = tiny.unet_evaluations, files_of(tmp_path)
    again, same, drawn = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    assert (drawn, tiny.unet_evaluations) == (0, before)
    assert np.array_equal(again, pictures) and same == kept and files_of(tmp_path) == there


def test_a_kept_picture_of_other_bytes_is_not_believed(tiny: Backbone, tmp_path: Path) -> None:
    """Somebody saved it over, and it is a whole picture still; or a bit of it flipped, and it can be read still."""
    pictures, kept, _ = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    there = files_of(tmp_path)
    for data in (png_bytes(255 - pictures[0]), flipped_but_readable(there[kept[0].file], pictures[0])):
        kept[0].file.chmod(0o644)
        kept[0].file.write_bytes(data)
        again, same, drawn = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
        assert drawn == len(CELL) and np.array_equal(again, pictures)
        assert same == kept and files_of(tmp_path) == there


def flipped_but_readable(data: bytes, picture: np.ndarray) -> bytes:
    """The file with one bit flipped such that PIL still reads a picture, another one."""
    for bit in range(8 * len(data)):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        try:
            with Image.open(io.BytesIO(bytes(other))) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError):
            continue
        if pixels.shape != picture.shape or not np.array_equal(pixels, picture):
            return bytes(other)
    raise AssertionError("every flipped bit is noticed by the decoder")


def test_another_model_or_sampler_is_drawn_anew(tiny: Backbone, tmp_path: Path) -> None:
    generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    assert generate_once(tiny, CELL, replace(TWO_STEPS, guidance_scale=3.0), tmp_path)[2] == len(CELL)
    with_word(tiny)
    assert generate_once(tiny, CELL, TWO_STEPS, tmp_path)[2] == len(CELL)
    tiny.restore()
    assert generate_once(tiny, CELL, TWO_STEPS, tmp_path)[2] == 0
    assert len(files_of(tmp_path)) == 3 * len(CELL)


@pytest.mark.parametrize("harm", ["missing", "empty", "truncated", "not a picture"])
def test_a_cell_cut_short_is_drawn_again_whole_with_the_same_bytes(tiny: Backbone, tmp_path: Path, harm: str) -> None:
    pictures, made, _ = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    kept, file = files_of(tmp_path), made[2].file
    data = kept[file]
    if harm == "missing":
        file.unlink()
    else:
        file.chmod(0o644)
        file.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "not a picture": b"words"}[harm])
    again, _, drawn = generate_once(tiny, CELL, TWO_STEPS, tmp_path)
    assert drawn == len(CELL)
    assert np.array_equal(again, pictures) and files_of(tmp_path) == kept
    assert generate_once(tiny, CELL, TWO_STEPS, tmp_path)[2] == 0


def test_a_picture_cut_anywhere_is_whole_or_none(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    data, file = png_bytes(picture), tmp_path / "cut.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    whole = []
    for length in range(len(data) + 1):
        file.write_bytes(data[:length])
        got = read_picture(file)
        if got is not None:
            assert np.array_equal(got, picture), length
            whole.append(length)
    # the end mark (12 bytes) and two checksums (4 each) hold no pixels
    assert len(data) in whole and min(whole) >= len(data) - 20
    assert read_picture(tmp_path / "none.png") is None
    assert read_picture(tmp_path) is None


# Placed


def kept_as(file: Path, data: bytes) -> CachedPicture:
    file.write_bytes(data)
    return CachedPicture(file, hashlib.sha256(data).hexdigest(), data)


def test_a_picture_is_placed_as_a_copy_that_cannot_change_the_cache(tmp_path: Path) -> None:
    cached, target = kept_as(tmp_path / "cached.png", b"first"), tmp_path / "run" / "pictures" / "00-0.png"
    place(cached, target)
    assert target.read_bytes() == b"first" and not target.samefile(cached.file)
    assert target.stat().st_nlink == 1 and stat.S_IMODE(target.stat().st_mode) == 0o444
    target.chmod(0o644)
    target.write_bytes(b"saved over")
    assert cached.file.read_bytes() == b"first"
    place(cached, target)
    assert target.read_bytes() == b"first"
    other = kept_as(tmp_path / "other.png", b"second")
    place(other, target)
    assert target.read_bytes() == b"second" and cached.file.read_bytes() == b"first"


def test_across_file_systems_a_picture_is_copied(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to copy to")
    folder = memory / f"{sampling.__name__}-{os.getpid()}"
    try:
        place(kept_as(tmp_path / "cached.png", b"first"), folder / "deep" / "00-0.png")
        assert (folder / "deep" / "00-0.png").read_bytes() == b"first"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
