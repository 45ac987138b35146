"""The semantic preservation loss: E and its quirk told by hooks and by hand, and whom its gradient reaches."""

from collections.abc import Callable
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.options import BackboneConfig
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, pooled, semantic_preservation_term

ONE, AS_RELEASED = (
    SemanticPreservationOptions(spl_weight=1),
    SemanticPreservationOptions(spl_weight=1, spl_keep_position=False),
)


def drawn(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(3))


def told(backbone: Backbone, encoder, prompt: str, overwritten: bool = False) -> np.ndarray:
    """The last hidden state after the final norm, of the unpadded prompt, where it ends.

    overwritten: as ClassDiffusion's code has it, the word's row stands over what the embedding layer answers at its place.
    """
    tokenizer = getattr(backbone.pipe, encoder.tokenizer_name)
    ids = tokenizer(prompt).input_ids
    assert ids[-1] == tokenizer.eos_token_id and ids.count(ids[-1]) == 1
    word = tokenizer("<v1>", add_special_tokens=False).input_ids[0]

    def write(module, args, out):
        if overwritten and word in ids:
            out = out.clone()
            out[0, ids.index(word)] = backbone.token_embeddings["v1"][encoder.part].to(out.dtype)
        return out

    hook = encoder.text_model.embeddings.register_forward_hook(write)
    try:
        with torch.no_grad():
            return encoder.text_model(torch.tensor([ids])).last_hidden_state[0, -1].double().numpy()
    finally:
        hook.remove()


def by_hand(backbone: Backbone, phrase: str, noun: str, overwritten: bool = False) -> float:
    found = []
    for encoder in backbone.vocabulary.encoders:
        a = told(backbone, encoder, f"a photo of a {phrase}", overwritten)
        b = told(backbone, encoder, f"a photo of a {noun}")
        found.append(1 - sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5))
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return loading.load(str(architectures.build("sdxl", tmp_path_factory.mktemp("sdxl"))))


def strengthen_positions(backbone: Backbone) -> None:
    for part, encoder in backbone.vocabulary.named_encoders():
        (name,) = (n for n, _ in encoder.named_parameters() if n.endswith("position_embedding.weight"))
        backbone.replace_weights({f"{part}.{name}": 25 * encoder.get_parameter(name)})


@pytest.fixture(params=["tiny", "sdxl"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """With a word of its own, and positions that weigh as much as words (at random, CLIP's are small)."""
    found = request.getfixturevalue(request.param)
    request.addfinalizer(found.restore)
    strengthen_positions(found)
    found.add_token("<v1>", 2 * drawn(len(found.word_embedding("dog"))))
    return found


@pytest.mark.parametrize("phrase", ["<v1> dog", "<v1>", "stuffed animal"])
@pytest.mark.parametrize("keep", [True, False])
def test_E_is_the_normed_state_at_the_end_before_any_projection(backbone: Backbone, phrase: str, keep: bool) -> None:
    for encoder in backbone.vocabulary.encoders:
        prompt = f"a photo of a {phrase}"
        found = pooled(backbone, encoder, prompt, keep).detach()
        assert found.shape == (encoder.model.config.hidden_size,)
        np.testing.assert_allclose(found.numpy(), told(backbone, encoder, prompt, not keep), atol=1e-5)
        others = [told(backbone, encoder, f"a photo of a {p}", not keep) for p in ("vase", "<v1> vase")]
        assert all(np.abs(found.numpy() - other).max() > 1e-3 for other in others)


@pytest.mark.parametrize("o", [ONE, AS_RELEASED])
def test_the_loss_is_one_minus_the_cosine(backbone: Backbone, o: SemanticPreservationOptions) -> None:
    overwritten = not o.spl_keep_position
    expected = by_hand(backbone, "<v1> dog", "dog", overwritten)
    assert expected > 1e-3 and abs(expected - by_hand(backbone, "<v1> dog", "dog", not overwritten)) > 1e-3
    (name, term), *_ = semantic_preservation_term(backbone, "<v1> dog", "dog", o)().items()
    assert name == "semantic" and float(term.detach()) == pytest.approx(expected, abs=1e-5)
    three = semantic_preservation_term(backbone, "<v1> dog", "dog", o.model_copy(update={"spl_weight": 3.0}))()
    assert float(three["semantic"].detach()) == pytest.approx(3 * expected, abs=1e-4)


def test_it_follows_the_row(backbone: Backbone) -> None:
    term = semantic_preservation_term(backbone, "<v1> dog", "dog", ONE)
    first = float(term()["semantic"].detach())
    with torch.no_grad():
        backbone.token_embeddings["v1"].mul_(-1)
    assert abs(float(term()["semantic"].detach()) - first) > 1e-4
    assert float(term()["semantic"].detach()) == pytest.approx(by_hand(backbone, "<v1> dog", "dog"), abs=1e-5)


@pytest.mark.parametrize("o", [ONE, AS_RELEASED])
def test_its_gradient_is_the_rows_alone(backbone: Backbone, o: SemanticPreservationOptions) -> None:
    row = backbone.token_embeddings["v1"]
    W = backbone.replace_weights(
        {
            n: p
            for n, p in backbone.denoiser.named_parameters()
            if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        }
    )
    other = backbone.add_token("<v2>", backbone.word_embedding("vase"))
    backbone.train_only([row, other, *W.values()])
    term = semantic_preservation_term(backbone, "<v1> dog", "dog", o)
    term()["semantic"].backward()
    assert not other.grad.any() and all(p.grad is None for p in W.values())
    grad = row.grad.clone()
    for encoder in backbone.vocabulary.encoders:
        direction = torch.zeros_like(row)
        direction[encoder.part] = grad[encoder.part] / grad[encoder.part].norm()
        step, start, ends = 3e-2, row.detach().clone(), []
        for sign in (1, -1):
            with torch.no_grad():
                row.copy_(start + sign * step * direction)
                ends.append(float(term()["semantic"].detach()))
        row.data.copy_(start)
        slope = float(grad[encoder.part].norm())
        assert slope > 1e-4 and (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.03)


def test_a_word_that_starts_as_its_noun_means_the_same_if_it_keeps_its_position(tiny: Backbone) -> None:
    strengthen_positions(tiny)
    tiny.add_token("<v1>", tiny.word_embedding("dog"))
    assert float(semantic_preservation_term(tiny, "<v1>", "dog", ONE)()["semantic"].detach()) == pytest.approx(
        0, abs=1e-6
    )
    assert float(semantic_preservation_term(tiny, "<v1>", "dog", AS_RELEASED)()["semantic"].detach()) > 1e-3


def test_without_weight_there_is_no_term_and_no_text_is_encoded(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    hook = tiny.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    tiny.add_token("<v1>", tiny.word_embedding("dog"))
    try:
        assert semantic_preservation_term(tiny, "<v1> dog", "dog", SemanticPreservationOptions())() == {} and not seen
        assert semantic_preservation_term(tiny, "<v1> dog", "dog", ONE)() and seen
    finally:
        hook.remove()


def test_no_hook_stays_behind(tiny: Backbone) -> None:
    tiny.add_token("<v1>", tiny.word_embedding("dog"))
    words = tiny.encode_prompts(["a <v1>"])
    semantic_preservation_term(tiny, "<v1> dog", "dog", AS_RELEASED)()
    assert torch.equal(tiny.encode_prompts(["a <v1>"]), words)
    assert not tiny.vocabulary.encoders[0].text_model.embeddings.position_embedding._forward_hooks


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision(sdxl: Backbone, dtype: str) -> None:
    half = loading.load(sdxl.name, loading=BackboneConfig(dtype=dtype))
    values = []
    for backbone in (sdxl, half):
        row = backbone.add_token("<v1>", 2 * drawn(len(sdxl.word_embedding("dog"))))
        term: Callable = semantic_preservation_term(backbone, "<v1> dog", "dog", AS_RELEASED)
        values.append(float((loss := term()["semantic"]).detach()))
        loss.backward()
        assert loss.dtype == row.grad.dtype == torch.float32 and torch.isfinite(row.grad).all()
        backbone.restore()
    assert Path(half.name) == Path(sdxl.name) and values[1] == pytest.approx(values[0], rel=0.05)


@pytest.mark.parametrize("phrase", ["<v1> dog", "dog"])
def test_at_the_largest_id_it_is_read_at_the_word(backbone: Backbone, phrase: str) -> None:
    """As a text config with `eos_token_id` 2 pools: the new word's id is above the end of text's."""
    prompt = f"a photo of a {phrase}"
    for encoder in backbone.vocabulary.encoders:
        ids = getattr(backbone.pipe, encoder.tokenizer_name)(prompt).input_ids
        place = ids.index(max(ids))
        assert (place == len(ids) - 1) is (phrase == "dog")
        with torch.no_grad():
            state = encoder.text_model(torch.tensor([ids])).last_hidden_state[0, place]
            found = pooled(backbone, encoder, prompt, pool="largest-id")
        torch.testing.assert_close(found, state.float(), atol=1e-5, rtol=1e-4)


def test_where_the_loss_is_read_is_an_option(backbone: Backbone) -> None:
    losses = []
    for pool in ("end", "largest-id"):
        o = SemanticPreservationOptions(spl_weight=1, spl_pool=pool)
        losses.append(float(semantic_preservation_term(backbone, "<v1> dog", "dog", o)()["semantic"]))
        a = [pooled(backbone, e, "a photo of a <v1> dog", pool=pool) for e in backbone.vocabulary.encoders]
        b = [pooled(backbone, e, "a photo of a dog") for e in backbone.vocabulary.encoders]
        cosines = [float(torch.cosine_similarity(x, y, dim=0)) for x, y in zip(a, b, strict=True)]
        assert losses[-1] == pytest.approx(1 - np.mean(cosines), abs=1e-5)
    assert losses[1] != pytest.approx(losses[0], rel=0.01)
