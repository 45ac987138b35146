"""`miniature-flow` as a name: its folder in the cache, plain diffusers, its presets, and a run from a plan to a report."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cpbench import config, registry
from cpbench.backbones import adapters, hub, loading
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.miniature import EMBEDDED, FLOW, NAME, flow_folder, is_miniature

PRESETS = Path(__file__).resolve().parents[1] / "baselines" / "presets"
SEARCHED = ("isolated", "seqlora", "ewc", "dcscore", "clora", "raretoken")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    flow_folder.assembled.cache_clear()
    yield tmp_path / "cache"
    flow_folder.assembled.cache_clear()


def test_both_miniatures_are_embedded_and_nothing_else_is() -> None:
    assert EMBEDDED == (NAME, FLOW) and all(map(is_miniature, EMBEDDED))
    assert not any(map(is_miniature, ("sd15", "miniatur", "./miniature-flow", None, ["miniature"])))


def test_the_folder_is_made_once_and_again_when_the_cache_was_cleaned_in_part(cache: Path) -> None:
    folder = hub.embedded(FLOW)
    assert folder.is_relative_to(cache) and hub.is_whole(folder)
    before, hashed = (folder / "vae" / "config.json").stat().st_mtime_ns, hub.hash_folder(folder)
    flow_folder.assembled.cache_clear()
    assert hub.embedded(FLOW) == folder and (folder / "vae" / "config.json").stat().st_mtime_ns == before
    shutil.rmtree(folder / "vae")
    (folder / "tokenizer_2" / "vocab.json").write_text("{}")
    flow_folder.assembled.cache_clear()
    assert hub.embedded(FLOW) == folder and hub.hash_folder(folder) == hashed
    assert {f.name for f in folder.parent.iterdir()} == {folder.name, f"{folder.name}.json", "assembly.lock"}


def test_processes_that_begin_together_all_find_a_whole_folder(tmp_path: Path) -> None:
    code = "from cpbench.backbones import hub; f = hub.embedded('miniature-flow'); print(hub.is_whole(f), hub.hash_folder(f))"
    environment = os.environ | {"CPBENCH_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in started}
    assert len(printed) == 1 and printed.pop().startswith("True ")


def test_without_a_cache_the_folder_is_gone_with_its_process(tmp_path: Path) -> None:
    code = "from cpbench.backbones import hub; f = hub.embedded('miniature-flow'); print(f, hub.hash_folder(f))"
    hashes = set()
    for cache in ("", str(tmp_path / "here"), "/proc/nothing/can/be/written"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"CPBENCH_CACHE": cache}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        folder, hashed = done.stdout.split()
        assert Path(folder).exists() == (cache == str(tmp_path / "here"))
        hashes.add(hashed)
    assert len(hashes) == 1


PLAIN = """
from cpbench import torchvision_compat
torchvision_compat.apply()
import sys, numpy, torch
from diffusers import StableDiffusion3Pipeline
pipe = StableDiffusion3Pipeline.from_pretrained(sys.argv[1], text_encoder_3=None, tokenizer_3=None)
latents = torch.from_numpy(numpy.load(sys.argv[2]))
pipe("a dog in the snow", num_inference_steps=10, guidance_scale=4.0, max_sequence_length=0, latents=latents).images[0].save(sys.argv[3])
"""


def test_plain_diffusers_draws_the_same_in_a_clean_process(tmp_path: Path, call: Callable) -> None:
    code, said, _ = call("export-miniature", "flow", tmp_path / "pipeline")
    assert code == 0 and "StableDiffusion3Pipeline" in said
    code, _, refused = call("export-miniature", "flow", tmp_path / "pipeline")
    assert code == 2 and "exists; pass a new folder" in refused
    backbone = loading.load(FLOW)
    request = SampleRequest("a dog in the snow", 0, "dog", "a {}", 0)
    np.save(tmp_path / "noise.npy", noise(backbone, request)[None].numpy())
    files = [tmp_path / "pipeline", tmp_path / "noise.npy", tmp_path / "dog.png"]
    done = subprocess.run([sys.executable, "-c", PLAIN, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (ours,) = generate(backbone, [request], Sampler(num_inference_steps=10, guidance_scale=4.0))
    assert abs(np.asarray(Image.open(files[2])).astype(int) - ours).max() <= 1


def test_its_presets_are_the_miniatures_with_what_a_transformer_has() -> None:
    written = yaml.safe_load((PRESETS / f"{FLOW}.yaml").read_text())
    assert {name.split()[0] for name in written} == set(registry.built_in_methods()) - {"base"}
    for name, values in written.items():
        provenance = values["_provenance"]
        assert ("trials" in provenance) or provenance == {"values": "miniature.yaml's, not searched"}, name
    denoiser = loading.load(FLOW).denoiser
    for name in registry.built_in_methods():
        mine, first = registry.preset(FLOW, name), registry.preset(NAME, name)
        assert set(first) <= set(mine)
        _, _, options = config.resolve({"method": name, "sequence": "quick3", "backbone": FLOW})
        if targets := getattr(options, "target_modules", None):
            assert adapters.matching_modules(denoiser, targets)
    assert registry.preset(FLOW, "dcscore")["temperature"] == "auto"
    assert registry.preset(FLOW, "clora", {"use_class_noun": True})["forgetting_weight"] == 10_000


@pytest.mark.slow
def test_dcscore_runs_from_a_plan_to_a_report(tmp_path: Path, call: Callable, short: Path) -> None:
    few = ("steps=2", "batch_size=2", "dsc_steps=2", "fisher_samples=2", "temperature=1.0")
    words = ["--method", "dcscore", "--sequence", short, "--backbone", FLOW, *(w for s in few for w in ("--set", s))]
    code, plan, said = call("plan", *words)
    assert code == 0 and "at the peak of a rehearsal" in plan, said
    code, out, said = call("run", *words, "--output", tmp_path / "out", "--no-overlap", "--device", "cpu")
    assert code == 0 and "miniature's DINO" in out + said and "mean little" not in out + said, said
    (record,) = (tmp_path / "out").rglob("run.json")
    assert record.relative_to(tmp_path / "out").parts[1] == FLOW
    code, _, said = call("report", record.parent)
    assert code == 0 and (record.parent / "report.html").stat().st_size > 10_000, said
    code, _, said = call("export", record.parent, tmp_path / "exported")
    assert code == 0 and (tmp_path / "exported" / "base" / "model_index.json").is_file(), said
    text = (tmp_path / "exported" / "README.md").read_text()
    assert 'folder + "/base"' in text and "max_sequence_length=0" in text
    code_block = text.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", code_block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "picture.png").is_file(), done.stderr


@torch.no_grad()
def test_it_draws_the_world() -> None:
    """A picture by the untouched model is nearer to drawings of its noun than to those of another, by the judge of classes."""
    from cpbench.judges.select import load_judges
    from cpbench.miniature.world import NOUNS

    backbone, clip = loading.load(FLOW), load_judges(FLOW)["clip"]
    nouns = [n for n in NOUNS if n in ("dog", "backpack", "vase", "sneaker", "clock", "candle")]
    requests = [SampleRequest(f"a {n} in the snow", 0, n, "a {}", k) for n in nouns for k in range(4)]
    pictures = generate(backbone, requests, Sampler(num_inference_steps=10, guidance_scale=4.0))
    texts = clip.texts([f"a photo of a {n} in the snow" for n in nouns])
    named = (clip.images(pictures) @ texts.T).argmax(1)
    assert (named == np.repeat(np.arange(len(nouns)), 4)).mean() > 0.5
