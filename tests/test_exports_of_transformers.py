"""What is exported of a family of transformers, as its README says, in a process that knows nothing of the run."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods_on_transformers import FEW, task
from test_transformers import SIDE
from transformer_pipelines import BUILDERS

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.config import RunConfig
from cpbench.errors import UserError
from cpbench.finished.export import export
from cpbench.finished.load import TrainedRun
from cpbench.method import State
from cpbench.registry import built_in_methods, load_method

FAMILIES = ("sd35-medium", "pixart-sigma-1024", "sana-600m", "flux-dev")
NOUNS = {"dog": "dog", "vase": "vase"}
STEPS, GUIDANCE = 3, 4.0


QUICK = ("sd35-medium", "pixart-sigma-1024")  # one that diffusers loads LoRAs into, and the one that peft does


@pytest.fixture(scope="module", params=[f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = BUILDERS[request.param](request.param, tmp_path_factory.mktemp(request.param))
    return loading.load(str(folder), loading=BackboneConfig(resolution=SIDE))


def learned(backbone: Backbone, folder: Path, name: str, **options: object) -> TrainedRun:
    kind = load_method(name)
    method, state = kind(kind.Options(**options)), State()
    for number, noun in enumerate(NOUNS, 1):
        state = method.learn(backbone, task(backbone, number, noun), state)
        backbone.restore()
    evaluation = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    run = RunConfig(
        method=name,
        sequence="quick3",
        backbone=backbone.name,
        loading=BackboneConfig(resolution=SIDE),
        options=method.options.model_dump(mode="json"),
        evaluation=evaluation,
    )
    return TrainedRun(folder, run, method, state, backbone, NOUNS)


def drawing(folder: Path) -> str:
    """The README's code, but that its picture starts from the file latents.pt, and is the array `picture`, 0 to 1."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    head, settings, end = code.partition(f", num_inference_steps={STEPS}")
    *lines, last = head.splitlines()
    assert end and last.startswith('pipe("a photo of a ')
    end = end.replace(').images[0].save("picture.png")', ").images[0]")
    latents = ", latents=torch.load('latents.pt'), output_type='np'"
    return "\n".join([*lines, f"picture = {last}{latents}{settings}{end}"])


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["LoRA", "weights"])
def test_the_readme_draws_the_same_in_a_clean_process(backbone: Backbone, tmp_path: Path, whole: bool) -> None:
    options = {"steps": 3, "learning_rate": 2e-2, "token_learning_rate": 0.5}
    if whole:
        options |= {"token_steps": 2, "learning_rate": 1e-3}
    run = learned(backbone, tmp_path, "raretoken" if whole else "seqlora", **options)
    export(run, tmp_path / "out")
    want = SampleRequest(f"a photo of a {run.phrase('dog')}", 0, "dog", "a photo of a {}", 0)
    plain = generate(
        backbone, [SampleRequest("a photo of a dog", 0, "dog", "a photo of a {}", 0)], Sampler(STEPS, GUIDANCE)
    )
    with backbone.installed(run.method, run.state, tuple(NOUNS)):
        ours = generate(backbone, [want], Sampler(STEPS, GUIDANCE))
    torch.save(backbone.family.packed(noise(backbone, want)[None]), tmp_path / "latents.pt")
    code = drawing(tmp_path / "out")
    (tmp_path / "draw.py").write_text("\n".join(["import numpy, torch", code, "numpy.save('picture.npy', picture)"]))
    done = subprocess.run([sys.executable, "draw.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "picture.npy") * 255
    assert np.abs(ours[0] - theirs).max() <= 1
    assert np.abs(plain[0].astype(float) - theirs).max() > 5  # what was learned is in the picture


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_methods())
def test_what_each_method_exports_draws_the_same(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = load_method(name)
    fast = {"learning_rate": 5e-3, "lora_learning_rate": 2e-2, "token_learning_rate": 0.5}
    if name == "cidm":  # as released it is installed for each prompt, and cannot be exported
        fast["mixing"] = "rows"
    run = learned(backbone, tmp_path, name, **{k: v for k, v in (FEW | fast).items() if k in kind.Options.model_fields})
    if name == "isolated":
        with pytest.raises(UserError, match="choose one with --concept"):
            export(run, tmp_path / "out")
    export(run, tmp_path / "out", "dog" if name in ("isolated", "cidm") else None)  # their LoRA is the concept's
    want = SampleRequest(f"a photo of a {run.phrase('dog')}", 0, "dog", "a photo of a {}", 0)
    with backbone.installed(run.method, run.state, ("dog",)):
        ours = generate(backbone, [want], Sampler(STEPS, GUIDANCE))
    torch.save(backbone.family.packed(noise(backbone, want)[None]), tmp_path / "latents.pt")
    monkeypatch.chdir(tmp_path)
    told: dict[str, object] = {"torch": torch}
    exec(drawing(tmp_path / "out"), told)
    theirs = np.asarray(told["picture"]) * 255
    assert np.abs(ours[0] - theirs).max() <= 1
    plain = generate(
        backbone, [SampleRequest("a photo of a dog", 0, "dog", want.template, 0)], Sampler(STEPS, GUIDANCE)
    )
    is_plain = np.abs(plain[0].astype(float) - theirs).max() <= 1
    assert is_plain == (name == "base")  # what was learned is in the picture
