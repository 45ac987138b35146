"""Names of 0.1 answer for one release and warn once: the methods that its README and docs printed load and run."""

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cpbench import moved
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.baselines.seqlora import SequentialLora
from cpbench.concepts import images
from cpbench.learning import lora, training
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
            ("cpbench.baselines.seqlora.add_words", "cpbench.learning.words.add_words"),
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


# Renamed functions, classes, attributes and keywords

RENAMED = [(module, old, new) for module, names in moved.RENAMED.items() for old, new in names.items()]


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of a test, none of them given before."""
    monkeypatch.setattr(moved, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize(("module", "old", "new"), RENAMED)
def test_an_old_name_is_the_new_one(module: str, old: str, new: str, caught: list[warnings.WarningMessage]) -> None:
    place, _, name = (new if "." in new else f"{module}.{new}").rpartition(".")
    owner = importlib.import_module(module)
    assert old not in vars(owner)
    assert getattr(owner, old) is getattr(owner, old) is getattr(importlib.import_module(place), name)
    (warning,) = caught
    assert str(warning.message).startswith(f"{module}.{old} is {place}.{name} now") and warning.filename == __file__


def test_old_attributes_answer(tiny: Backbone, caught: list[warnings.WarningMessage]) -> None:
    state, index = State({"token/dog": torch.zeros(16)}, {"concepts": ["dog"]}), torch.tensor([1])
    batch = training.Batch(index, index, index, index, "a {}", index)
    tiny.add_token("<v1>", torch.zeros(16))
    tiny.add_lora(2, ("to_q",), torch.Generator().manual_seed(0))
    assert tiny.rows is tiny.token_embeddings and tiny.factors is tiny.lora_parameters and tiny.unet is tiny.denoiser
    assert state.part("token").keys() == {"dog"} and state.bytes_by_kind() == {"token": 64} and batch.which is index
    tiny.restore()
    names = {"Backbone.rows", "Backbone.factors", "Backbone.unet", "State.part", "State.bytes_by_kind", "Batch.which"}
    assert {str(w.message).partition(" is ")[0] for w in caught} == names


def test_old_keywords_answer(tiny: Backbone, caught: list[warnings.WarningMessage]) -> None:
    lora_parameters = tiny.add_lora(2, ("to_q",), torch.Generator().manual_seed(0), kind="lora")
    noisy, t, prompt_embeds = torch.ones(1, *tiny.latent_shape), torch.tensor([5]), tiny.encode_prompts(["a dog"])
    with torch.no_grad():
        expected = tiny.predict(noisy, t, prompt_embeds, lora_parameters)
        assert torch.equal(tiny.predict(noisy, t, words=prompt_embeds, factors=lora_parameters), expected)
    tiny.restore()
    assert [str(w.message).partition(" now")[0] for w in caught] == [
        "Backbone.add_lora(kind=...) is adapter_type=...",
        "Backbone.predict(words=...) is prompt_embeds=...",
        "Backbone.predict(factors=...) is lora_parameters=...",
    ]


def test_learn_lora_by_the_keywords_of_0_1(
    tiny: Backbone, make_task: Callable, caught: list[warnings.WarningMessage]
) -> None:
    """protect had the LoRA alone, and could return values that are only logged."""
    method = SequentialLora(lora.LoraOptions(**SHORT))
    layer = next(name for name, _ in tiny.denoiser.named_modules() if name.endswith("attn1.to_q"))
    delta = {layer: torch.full_like(tiny.denoiser.get_parameter(f"{layer}.weight"), 0.01)}
    _, start = lora.learn_lora(method, tiny, make_task(tiny), State())
    start = {name: value.detach().clone() for name, value in start.items()}
    tiny.restore()

    def size(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([p.square().sum() for p in parameters.values()]).sum()

    results = []
    for keywords in (
        {
            "protect": lambda parameters: {"size": size(parameters), "logged": size(parameters).detach()},
            "changes": delta,
            "values": start,
            "kind": "lora",
        },
        {"penalty": lambda batch, parameters: {"size": size(parameters)}, "weight_deltas": delta, "init": start},
    ):
        _, parameters = lora.learn_lora(method, tiny, make_task(tiny), State(), **keywords)
        results.append({name: value.detach().clone() for name, value in parameters.items()})
        tiny.restore()
    old, new = results
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in new)
    assert len(caught) == 6  # four keywords, the penalty's one parameter, a term without gradient
