"""What the tests share: the miniature, a tiny Stable Diffusion with random weights, tasks of drawn pictures."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from cpbench import output, torchvision_compat
from cpbench.backbones.backbone import Backbone
from cpbench.method import Task

torchvision_compat.apply()  # before anything that imports torchvision
torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs a network
os.environ["CPBENCH_CACHE"] = tempfile.mkdtemp(prefix="cpbench-tests-")  # nothing of the user's own cache
atexit.register(shutil.rmtree, os.environ["CPBENCH_CACHE"], ignore_errors=True)
settings.register_profile("untimed", deadline=None)  # how busy the machine is must not decide a test
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _told() -> Iterator[None]:
    """What is said is heard in tests, as on the command line; `test_output.py` has what a library's user hears."""
    with output.opened():
        yield


TINY_CONTEXT = 32  # tokens, the context length of the miniature's tokenizer
NOUNS = {"dog": "dog", "dog2": "dog", "backpack": "backpack", "vase": "vase"}


def build_tiny(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Save a Stable Diffusion of random weights: 32-pixel pictures, latents 4 x 8 x 8, hidden states of 16.

    The text config keeps the default `eos_token_id`, which this small vocabulary does not have: the trap that
    `Backbone` must mend.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from cpbench.miniature.pretrain.tokenizer import save_tokenizer

    save_tokenizer(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=[8, 8, 16],
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=0.5,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=[8, 16],
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TINY_CONTEXT,
                projection_dim=16,
            )
        )
        # at CLIP's own scale, 0.02, so small a model hardly tells two prompts apart
        text_encoder.get_input_embeddings().weight.data.normal_(std=0.5)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def _loaded(tiny_folder: Path) -> Callable[[str], Backbone]:
    from cpbench.backbones import loading

    kept: dict[str, Backbone] = {}

    def load(name: str) -> Backbone:
        if name not in kept:
            kept[name] = loading.load(name)
        return kept[name]

    return load


@pytest.fixture
def miniature(_loaded: Callable[[str], Backbone]) -> Iterator[Backbone]:
    """The embedded backbone, loaded once, restored after every test."""
    backbone = _loaded("miniature")
    yield backbone
    backbone.restore()


@pytest.fixture
def tiny(_loaded: Callable[[str], Backbone], tiny_folder: Path) -> Iterator[Backbone]:
    """Stable Diffusion's architecture with random weights, loaded once, restored after every test."""
    backbone = _loaded(str(tiny_folder))
    yield backbone
    backbone.restore()


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """make_task(backbone, concept, number, n, seed, log): a Task of `n` drawn pictures of the backbone's size."""
    from cpbench.concepts import images

    def make(
        backbone: Backbone,
        concept: str = "dog",
        number: int = 1,
        n: int = 2,
        seed: int = 0,
        log: Callable | None = None,
    ) -> Task:
        size = (backbone.picture_size, backbone.picture_size)
        pictures = np.stack([np.asarray(Image.fromarray(p).resize(size)) for p in images.rendered(concept)[:n]])
        noun = NOUNS[concept]
        return Task(number, concept, noun, pictures, seed, *([log] if log else []))

    return make


@pytest.fixture(scope="session")
def three_tasks(_loaded: Callable[[str], Backbone], tiny_folder: Path, make_task: Callable[..., Task]) -> Callable:
    """three_tasks(method class, **options): what three tasks on the tiny backbone left one after the other, learned once."""
    import learners

    kept: dict[str, list[learners.Learned]] = {}

    def learned(kind: type, **options: object) -> list[learners.Learned]:
        key = f"{kind.__module__}.{kind.__qualname__} {sorted(options.items())}"
        if key not in kept:
            kept[key] = learners.tasks(kind, _loaded(str(tiny_folder)), make_task, **options)
        return kept[key]

    return learned


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """call(words) -> (exit code, stdout, stderr), started in an empty folder."""
    from cpbench.cli import main

    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cpbench", *map(str, words)])
        code = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


THREE = """
name: three
version: 1
images: {drawn: true}
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: vase, class_noun: vase, kind: object}
  - {name: dog2, class_noun: dog, kind: live}
evaluation:
  live: ["a {} in the snow"]
  object: ["a {} in the snow"]
  pictures_per_prompt: 1
  num_inference_steps: 1
"""
SHORT = """
name: short
version: 1
images: {drawn: true}
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: vase, class_noun: vase, kind: object}
evaluation:
  live: ["a {} in the snow"]
  object: ["a {} in the snow"]
  pictures_per_prompt: 2
  num_inference_steps: 1
  prior: ["a photo of a {}"]
  compositions: ["a {} and a {} in the snow"]
"""


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a sequence of two concepts that has everything that can be drawn."""
    file = tmp_path_factory.mktemp("short") / "short.yaml"
    file.write_text(SHORT)
    return file


@pytest.fixture(scope="session")
def short_run(short: Path) -> Callable[..., Path]:
    """short_run(method, evaluation): the folder of a finished run over it, made once."""
    import cpbench

    options = {"seqlora": {"steps": 3, "batch_size": 1, "rank": 2, "learning_rate": 3e-2}}
    options["isolated"] = options["seqlora"]

    def run(method: str, evaluation: dict | None = None) -> Path:
        given = {"method": method, "sequence": str(short), "output": short.parent / "out"}
        given |= {"evaluation": evaluation} if evaluation else {}
        return cpbench.run(**given, options=options.get(method, {}))["folder"]

    return run


LONGEST = ("test_resume", "test_finished", "test_architectures", "test_html_report", "test_classifier_matrix")
LONGEST += ("test_sweep", "test_plan", "test_runner", "test_docs_adding", "test_pretrain")
A_FEW = {  # of each architecture in `make test`; the others are in `make test-slow`
    "sd15": (
        "seqlora",
        "clora",
        "dcscore vera",
        "raretoken",
        "customdiffusion merged",
        "ewc product",
        "orthoadapt",
        "cidm",
    ),
    "sd21": ("seqlora", "dcscore dora", "raretoken lora", "textualinversion"),  # a LoRA, DoRA, two stages, words alone
    "sdxl": ("seqlora", "textualinversion"),  # with two text encoders, and the slowest
}
OF_EVERY_METHOD = (
    "test_plain_diffusers_draws_the_same_with_what_was_exported",
    "test_every_method_learns_two_tasks_and_draws",
)
KINDS = ("seqlora", "raretoken", "textualinversion", "joint", "mofo")  # of what a method trains
OF_EVERY_KIND = (
    "test_a_failure_while_learning_leaves_no_trace",
    "test_a_failure_while_installing_leaves_no_trace",
    "test_a_state_that_lacks_a_tensor_is_not_installed",
    "test_each_lora_method_learns_without_a_trained_word",
)


def pytest_configure(config: pytest.Config) -> None:
    """All tests are of the CPU, on machines with a GPU as well, apart from those of `make test-gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.backends.mps.is_available = lambda: False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped where there is none. The modules that take longest begin, so that no core is idle at the end (`make test` deals out whole modules).

    Every method on every architecture takes minutes: a few of each kind stay in `make test`, the others are slow.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        name, _, case = item.name.rstrip("]").partition("[")
        architecture, _, method = case.partition("-base-" if case.startswith("sd21-base-") else "-")
        if name in OF_EVERY_METHOD and method not in A_FEW.get(architecture, (method,)):
            item.add_marker(pytest.mark.slow)
        if name in OF_EVERY_KIND and not any(kind in case.split("-") for kind in KINDS):
            item.add_marker(pytest.mark.slow)
