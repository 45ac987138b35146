"""Names of 0.1 answer for one release and warn once: the methods that its README and docs printed load and run."""

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cpbench import moved
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.concepts import images
from cpbench.learning import lora
from cpbench.method import State
from cpbench.registry import load_method

OLD = Path(__file__).parent / "methods_of_0_1"
SHORT = {"steps": 2, "batch_size": 1, "rank": 2}


@pytest.mark.parametrize("name", ["lwf", "word_only"])
def test_a_method_that_0_1_printed_runs(tiny: Backbone, make_task: Callable, name: str) -> None:
    kind = load_method(str(OLD / f"{name}.py"))
    before, state = fingerprint(tiny), State()
    for number, concept in enumerate(("dog", "vase"), 1):
        state = kind(kind.Options(**SHORT)).learn(tiny, make_task(tiny, concept, number), state)
        tiny.restore()
    assert state.concepts == ["dog", "vase"] and all(torch.isfinite(t).all() for t in state.tensors.values())
    with tiny.installed(kind(kind.Options(**SHORT)), state, ("dog",)):
        assert tiny.token_embeddings
    assert fingerprint(tiny) == before


@pytest.mark.parametrize(("old", "places"), moved.MODULES.items())
def test_an_old_module_answers_for_the_new_ones(old: str, places: tuple[str, ...]) -> None:
    """With what stands in them, the first that has a name before the others."""
    expected: dict[str, object] = {}
    for place in places:
        own = vars(importlib.import_module(place)).items()
        expected = {n: it for n, it in own if getattr(it, "__module__", None) == place and n[0] != "_"} | expected
    assert len(expected) >= len(places)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = importlib.import_module(old)
        assert all(getattr(answers, name) is it for name, it in expected.items())


@pytest.mark.parametrize(
    "name", ["add_tokens", "add_words", "learn_lora", "token_of", "forgetting", "past_loras", "stacked"]
)
def test_the_kit_is_found_in_the_baselines_that_had_it(name: str) -> None:
    baseline = "clora" if name in ("forgetting", "past_loras", "stacked") else "seqlora"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(importlib.import_module(f"cpbench.baselines.{baseline}"), name)
    assert found is getattr(lora, name)


def test_it_warns_once_of_each_name_and_says_the_new_one() -> None:
    program = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        from cpbench.adapters import ATTENTION, products
        from cpbench.baselines.seqlora import SequentialLora, add_words
print(*(f"{it.category.__name__}: {it.message}" for it in told), sep="\\n")
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == [
        f"DeprecationWarning: {old} is {new} now; the old name goes with cpbench 0.3"
        for old, new in (
            ("cpbench.adapters.ATTENTION", "cpbench.backbones.adapters.ATTENTION"),
            ("cpbench.adapters.products", "cpbench.backbones.adapters.products"),
            ("cpbench.baselines.seqlora.add_words", "cpbench.learning.lora.add_words"),
        )
    ]


def test_a_function_that_the_docs_of_0_1_printed_answers_by_its_old_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cpbench.images import drawn
    assert drawn is images.rendered


def test_what_never_was_is_still_an_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from cpbench.adapters import nothing  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from cpbench.baselines.seqlora import nothing  # noqa: F401


def test_tools_of_0_1_whose_work_is_done_elsewhere_still_answer(tiny: Backbone) -> None:
    from cpbench.diffusion_classifier import to_epsilon
    from cpbench.learning import noise_scheduler
    from cpbench.regularisation import Prior, prior_evaluations

    scheduler, ones = noise_scheduler(tiny), torch.ones(1, 4, 8, 8)
    assert scheduler.config.num_train_timesteps == 1000 and to_epsilon(scheduler, ones, ones, torch.tensor([5])) is ones
    o = Prior(prior_pictures=3, prior_inference_steps=2, prior_guidance_scale=4.0)
    assert prior_evaluations(o, 4, 2) == 3 * 2 * 2 + 8 and prior_evaluations(Prior(prior_pictures=0), 4, 2) == 0
