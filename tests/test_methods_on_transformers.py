"""Methods on families of transformers, unchanged: two tasks, a picture, and a backbone as it was loaded afterwards."""

import numpy as np
import pytest
from transformer_pipelines import BUILDERS

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.backbones.vocabulary import is_clip
from cpbench.baselines.customdiffusion import CustomDiffusion
from cpbench.errors import UserError
from cpbench.method import State, Task
from cpbench.registry import built_in_methods, load_method

FAMILIES = ("sd35-medium", "pixart-sigma-1024", "sana-600m", "flux-dev")
FEW = {"steps": 2, "batch_size": 2, "token_steps": 2, "fisher_samples": 2, "dsc_steps": 2, "prior_pictures": 2}
FEW |= {
    "prior_inference_steps": 1,
    "replay_pictures": 1,
    "replay_inference_steps": 1,
    "crops": 1,
    "caption_samples": 1,
    "merge_steps": 1,
}
QUICK = ("seqlora", "dcscore")
METHODS = [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in built_in_methods()]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = BUILDERS[request.param](request.param, tmp_path_factory.mktemp(request.param))
    return loading.load(str(folder), loading=BackboneConfig(resolution=128))


def task(backbone: Backbone, number: int, noun: str) -> Task:
    size = backbone.picture_size
    pictures = np.random.default_rng(number).integers(0, 255, (2, size, size, 3), np.uint8)
    return Task(number, noun, noun, pictures, 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_two_concepts_and_leaves_no_trace(backbone: Backbone, name: str) -> None:
    kind, before = load_method(name), fingerprint(backbone)
    options = {k: v for k, v in FEW.items() if k in kind.Options.model_fields}
    if name == "cidm" and backbone.attended(backbone.encode_prompts(["a"])) is None:
        options["mixing"] = "rows"
    method = kind(kind.Options(**options))
    method.check(backbone)
    state = State()
    for number, noun in enumerate(("dog", "vase"), 1):
        state = method.learn(backbone, task(backbone, number, noun), state)
        backbone.restore()
    prompt = f"a photo of a {method.phrase('dog', 'dog', state)}"
    drawn = []
    for given in (None, state):
        with backbone.installed(method, given, ("dog",), (prompt,)):
            text = prompt if given is not None else "a photo of a dog"
            drawn.append(generate(backbone, [SampleRequest(text, 0, "dog", "a {}", 0)], Sampler(2)))
    assert drawn[1].shape == (1, backbone.picture_size, backbone.picture_size, 3)
    assert name == "base" or not np.array_equal(*drawn)
    assert fingerprint(backbone) == before


def test_the_closed_form_is_refused_where_it_is_not_defined(backbone: Backbone) -> None:
    method = CustomDiffusion(CustomDiffusion.Options(merge="closed-form", steps=1, batch_size=1, prior_pictures=0))
    if backbone.attended(backbone.encode_prompts(["a"])) is None:
        with pytest.raises(UserError, match="joint attention"):
            method.check(backbone)
        return
    method.check(backbone)
    try:
        state = method.learn(backbone, task(backbone, 1, "dog"), State())
    finally:
        backbone.restore()
    width = backbone.denoiser.config.cross_attention_dim
    C = state.tensors["anchor/dog/C"]
    # the phrase is "<v1> dog": two prompts from <v1> to the end of text, which T5 has, in what attn2.to_k reads
    has_end = backbone.vocabulary.encoders[0].kind == "t5"
    assert C.shape == (2 * (2 + has_end), width)


def test_a_phrase_without_its_position_is_refused_without_positions(backbone: Backbone) -> None:
    kind = load_method("classdiffusion")
    if all(is_clip(encoder.model) for encoder in backbone.vocabulary.encoders):
        pytest.skip("CLIP has position embeddings")
    method = kind(kind.Options(steps=1, batch_size=1, spl_keep_position=False))
    with pytest.raises(UserError, match="position embeddings"):
        method.learn(backbone, task(backbone, 1, "dog"), State())
    backbone.restore()
