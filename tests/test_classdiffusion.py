"""ClassDiffusion: Custom Diffusion with its word held to the noun, and no pictures of the class."""

from collections.abc import Callable
from typing import Any

import learners
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, same

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.classdiffusion import ClassDiffusion, ClassDiffusionOptions
from cpbench.baselines.customdiffusion import CustomDiffusion
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, semantic_preservation_term

FAST: dict[str, Any] = {"learning_rate": 1e-2, "token_learning_rate": 1e-2, "steps": 4, "batch_size": 2}


def learn(*args: Any, **options: Any) -> Learned:
    return learners.learn(ClassDiffusion, *args, **FAST | options)


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(ClassDiffusion, **FAST)


def test_the_papers_settings() -> None:
    o = ClassDiffusionOptions()
    assert (o.spl_weight, o.spl_keep_position, o.prior_pictures, o.steps, o.batch_size) == (1, True, 0, 500, 2)


@pytest.mark.parametrize("keep", [True, False])
def test_the_loss_is_both_terms_at_every_step(tiny: Backbone, make_task: MakeTask, keep: bool) -> None:
    """L_SP by the cosine of the words as they stood before the step."""
    expected: list[float] = []
    measured = SemanticPreservationOptions(spl_weight=1, spl_keep_position=keep)

    def look(phase: str, step: int) -> None:
        expected.append(3 * float(semantic_preservation_term(tiny, "<v1> dog", "dog", measured)()["semantic"].detach()))

    learned = learn(tiny, make_task, 1, None, look, spl_weight=3.0, spl_keep_position=keep)
    assert [f["semantic"] for f in learned.curve[1:]] == pytest.approx(expected[:-1], rel=1e-4, abs=1e-6)
    for figures in learned.curve:
        assert "prior" not in figures and figures["semantic"] > 0
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["semantic"], rel=1e-5)
    other = learn(tiny, make_task, 1, None, spl_weight=3.0, spl_keep_position=not keep)
    assert other.curve[0]["semantic"] != pytest.approx(learned.curve[0]["semantic"], rel=1e-3)


def test_without_its_loss_and_with_its_prompt_it_is_custom_diffusion(
    tiny: Backbone, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = learn(tiny, make_task, 1, None, spl_weight=0.0)
    monkeypatch.setattr(CustomDiffusion, "templates", ClassDiffusion.templates)
    custom = learners.learn(CustomDiffusion, tiny, make_task, 1, None, **FAST | {"prior_pictures": 0})
    assert same(plain.state.tensors, custom.state.tensors)
    held = learn(tiny, make_task, 1, None, steps=1)
    loose = learn(tiny, make_task, 1, None, steps=1, spl_weight=0.0)
    assert not torch.equal(held.state.tensors["token/dog"], loose.state.tensors["token/dog"])
    for name, w in held.state.tensors_of("weights").items():  # what L_SP never reaches (the gradient's norm is clipped)
        torch.testing.assert_close(w, loose.state.tensors[f"weights/{name}"], atol=1e-4, rtol=0)


def test_the_word_is_held_to_the_noun(tiny: Backbone, make_task: MakeTask) -> None:
    far = []
    for weight in (0.0, 10.0):
        state = learn(tiny, make_task, 1, None, spl_weight=weight, steps=40).state
        tiny.add_token("<v1>", state.tensors["token/dog"])
        far.append(
            float(
                semantic_preservation_term(tiny, "<v1> dog", "dog", SemanticPreservationOptions(spl_weight=1))()[
                    "semantic"
                ].detach()
            )
        )
        tiny.restore()
    assert far[1] < 0.5 * far[0]


def test_the_prompt_is_the_papers(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: set[str] = set()
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.update(texts) or encode(texts))
    learn(tiny, make_task, 2, three[0].state)
    assert prompts == {"a photo of a <v2> vase"}


def test_the_state_is_custom_diffusions(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    names = [n for n, _ in tiny.denoiser.named_parameters() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    for number, learned in enumerate(three, 1):
        expected = {f"weights/{n}" for n in names} | {f"token/{c}" for c in CONCEPTS[:number]}
        assert learned.state.tensors.keys() == expected
        assert learned.evaluations == 4 * 2
    learners.rows_stay(three)
    merged = learn(tiny, make_task, 1, None, merge="closed-form").state
    assert merged.bytes_by_type().keys() == {"anchor", "token"}
    with tiny.installed(ClassDiffusion(ClassDiffusionOptions(merge="closed-form")), merged, ("dog",)):
        assert tiny.weights.keys() == set(names)
