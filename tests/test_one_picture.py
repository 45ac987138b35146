"""One picture from one state, against the way it was made before: layers with an adapter, a new solver, every step whole."""

from collections.abc import Iterator
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.processes.diffusion import solver
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise

CELL = [
    SampleRequest(f"a <v1> {place}", 3, "dog", f"a {{}} {place}", k)
    for k, place in enumerate(("in the snow", "in water"))
]
SAMPLER = Sampler(num_inference_steps=3, guidance_scale=4.0, batch_size=2)
TARGETS = ("attention", "feed_forward", "conv1", "conv2")


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.build("sdxl", tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(params=["miniature", "sdxl"])
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    name = request.param
    backbone = loading.load(name if name == "miniature" else str(request.getfixturevalue("sdxl_folder")))
    yield backbone
    backbone.restore()


def install(backbone: Backbone) -> None:
    """A LoRA and a word that change the pictures much."""
    parameters = backbone.add_lora(8, TARGETS, torch.Generator().manual_seed(0))
    for number, parameter in enumerate(parameters.values()):
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.01
    backbone.add_token("<v1>", backbone.word_embedding("dog"))


@torch.no_grad()
def as_before(backbone: Backbone) -> np.ndarray:
    """The pictures (n, h, w, 3) in [0, 255] by the pipeline's own call with peft's layers, as cpbench 0.2 made them."""
    pipe, original = backbone.pipe, backbone.pipe.scheduler
    pipe.scheduler = solver(original, SAMPLER.num_inference_steps)
    try:
        pictures = pipe(
            [request.prompt for request in CELL],
            height=backbone.picture_size,
            width=backbone.picture_size,
            latents=torch.stack([noise(backbone, request) for request in CELL]),
            num_inference_steps=SAMPLER.num_inference_steps,
            guidance_scale=SAMPLER.guidance_scale,
            output_type="np",
        ).images
    finally:
        pipe.scheduler = original
    return 255 * np.asarray(pictures)


def test_pictures_are_those_of_the_plain_pipeline_with_the_adapter_apart(backbone: Backbone) -> None:
    pristine = generate(backbone, [SampleRequest("a dog in the snow", *list(vars(CELL[0]).values())[1:])], SAMPLER)
    install(backbone)
    expected, pictures = as_before(backbone), generate(backbone, CELL, SAMPLER)
    assert np.abs(pictures - expected).max() <= 2
    assert np.abs(pictures[0].astype(float) - pristine[0]).max() > 4  # the adapter did something
