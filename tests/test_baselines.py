"""The methods of baselines/, two tasks each on a tiny Stable Diffusion: what each is known for must show."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from cpbench.backbones import adapters, sampling
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.baselines.base import Base
from cpbench.baselines.isolated import Isolated
from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning.lora import LoraOptions
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, semantic_preservation_term
from cpbench.learning.words import add_tokens, add_words, token_of
from cpbench.method import Method, NotDefined, State, Task

MakeTask = Callable[..., Task]
CONCEPTS = ("dog", "vase", "dog2")
SMALL = LoraOptions(rank=2, steps=3, batch_size=2, learning_rate=1e-2, token_learning_rate=1e-2)
STILL = LoraOptions(rank=2, steps=1, batch_size=2, learning_rate=1e-9, token_learning_rate=0)


def learn(
    backbone: Backbone,
    make_task: MakeTask,
    kind: type[Method],
    number: int,
    state: State | None,
    options: LoraOptions | None = None,
) -> State:
    """Task `number` by a new method object, from a state of its own, as the runner does it; restored after."""
    task = make_task(backbone, CONCEPTS[number - 1], number)
    given = State({k: v.clone() for k, v in state.tensors.items()}, dict(state.facts)) if state else State()
    learned = kind(options or (SMALL if kind is not Base else None)).learn(backbone, task, given)
    backbone.restore()
    if state is not None:  # what was given is not written to
        assert given.facts == state.facts
        assert given.tensors.keys() == state.tensors.keys()
        assert all(torch.equal(given.tensors[k], state.tensors[k]) for k in state.tensors)
    return learned


def both(backbone: Backbone, make_task: MakeTask, kind: type[Method]) -> tuple[State, State]:
    first = learn(backbone, make_task, kind, 1, None)
    return first, learn(backbone, make_task, kind, 2, first)


def picture(backbone: Backbone, kind: type[Method], state: State | None, concept: str) -> torch.Tensor:
    """One small drawing of the concept, by the method's own words for it."""
    method = kind(SMALL if kind is not Base else None)
    words = method.phrase(concept, "dog", state) if state else "dog"
    with backbone.installed(method, state, (concept,)):
        want = SampleRequest(f"a {words} in the snow", 0, concept, "a {} in the snow", 0)
        return torch.from_numpy(sampling.generate(backbone, [want], Sampler(2, 4.0, 1)))


def names_of(backbone: Backbone, rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a LoRA on every attention projection has, counted from the layers themselves."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in backbone.denoiser.named_modules():
        if isinstance(module, torch.nn.Linear) and any(
            name.endswith("." + t) for t in ("to_q", "to_k", "to_v", "to_out.0")
        ):
            shapes[f"{name}.lora_A"] = (rank, module.in_features)
            shapes[f"{name}.lora_B"] = (module.out_features, rank)
    assert len(shapes) > 16
    return shapes


# base


def test_base_carries_nothing_and_changes_nothing(tiny: Backbone, make_task: MakeTask) -> None:
    untouched, evaluations = tiny.installed_hash(), tiny.unet_evaluations
    first, second = both(tiny, make_task, Base)
    assert (first.tensors, second.tensors) == ({}, {})
    assert (first.concepts, second.concepts) == (["dog"], ["dog", "vase"])
    assert tiny.unet_evaluations == evaluations
    for concepts in ((), ("dog",), ("dog", "vase")):
        with tiny.installed(Base(), second, concepts):
            assert tiny.installed_hash() == untouched
    assert Base().phrase("vase", "stuffed animal", second) == "stuffed animal"


def test_base_draws_row_0_in_every_row(tiny: Backbone, make_task: MakeTask) -> None:
    first, second = both(tiny, make_task, Base)
    drawn = [picture(tiny, Base, state, "dog") for state in (None, first, second)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


# isolated


def test_isolated_keeps_what_it_learned_bit_for_bit(tiny: Backbone, make_task: MakeTask) -> None:
    first, second = both(tiny, make_task, Isolated)
    assert first.tensors.keys() < second.tensors.keys()
    assert all(torch.equal(first.tensors[k], second.tensors[k]) for k in first.tensors)
    assert torch.equal(picture(tiny, Isolated, first, "dog"), picture(tiny, Isolated, second, "dog"))


def test_isolated_carries_a_lora_and_a_row_a_concept(tiny: Backbone, make_task: MakeTask) -> None:
    _, second = both(tiny, make_task, Isolated)
    shapes = {}
    for concept in ("dog", "vase"):
        shapes |= {f"adapter/{concept}/{k}": s for k, s in names_of(tiny, rank=2).items()}
        shapes[f"token/{concept}"] = (16,)
    assert {k: tuple(v.shape) for k, v in second.tensors.items()} == shapes


def test_isolated_starts_every_concept_from_the_untouched_model(tiny: Backbone, make_task: MakeTask) -> None:
    """Task 2 after task 1, and the same concept learned alone, differ in nothing but the word's number."""
    _, second = both(tiny, make_task, Isolated)
    alone = learn(tiny, make_task, Isolated, 2, None)
    for name, tensor in alone.tensors.items():
        assert torch.equal(second.tensors[name], tensor), name
    assert len(alone.tensors) == len(second.tensors) / 2


def test_isolated_cannot_show_two_concepts(tiny: Backbone, make_task: MakeTask) -> None:
    _, second = both(tiny, make_task, Isolated)
    before = tiny.installed_hash()
    with pytest.raises(NotDefined), tiny.installed(Isolated(SMALL), second, ("dog", "vase")):
        pass
    with tiny.installed(Isolated(SMALL), second, ()):
        assert tiny.installed_hash() == before  # plain prompts get the untouched model


def test_isolated_installs_each_concepts_own(tiny: Backbone, make_task: MakeTask) -> None:
    _, second = both(tiny, make_task, Isolated)
    for concept in ("dog", "vase"):
        with tiny.installed(Isolated(SMALL), second, (concept,)):
            assert all(
                torch.equal(v, second.tensors[f"adapter/{concept}/{k}"]) for k, v in tiny.lora_parameters.items()
            )
            (row,) = tiny.token_embeddings.values()
            assert torch.equal(row, second.tensors[f"token/{concept}"])
            word = Isolated(SMALL).phrase(concept, "dog", second).split()[0]
            assert tiny.tokenizer(word, add_special_tokens=False).input_ids == [len(tiny.tokenizer) - 1]


# seqlora


def test_seqlora_changes_the_one_adapter_and_keeps_earlier_words(tiny: Backbone, make_task: MakeTask) -> None:
    first, second = both(tiny, make_task, SequentialLora)
    third = learn(tiny, make_task, SequentialLora, 3, second)
    shapes = {f"adapter/{k}": s for k, s in names_of(tiny, rank=2).items()} | {f"token/{c}": (16,) for c in CONCEPTS}
    assert {k: tuple(v.shape) for k, v in third.tensors.items()} == shapes
    factors = list(first.tensors_of("adapter"))
    for before, after in ((first, second), (second, third)):
        assert not any(torch.equal(before.tensors_of("adapter")[k], after.tensors_of("adapter")[k]) for k in factors)
        for concept in before.concepts:
            assert torch.equal(before.tensors[f"token/{concept}"], after.tensors[f"token/{concept}"])
    assert third.concepts == list(CONCEPTS)


def test_seqlora_forgets_in_pictures(tiny: Backbone, make_task: MakeTask) -> None:
    first, second = both(tiny, make_task, SequentialLora)
    assert not torch.equal(picture(tiny, SequentialLora, first, "dog"), picture(tiny, SequentialLora, second, "dog"))


def test_seqlora_goes_on_from_the_last_adapter(tiny: Backbone, make_task: MakeTask) -> None:
    """With next to no learning, task 2 ends where task 1 did, and not where a new LoRA begins."""
    first = learn(tiny, make_task, SequentialLora, 1, None)
    near = learn(tiny, make_task, SequentialLora, 2, first, STILL).tensors_of("adapter")
    fresh = tiny.add_lora(2, adapters.ATTENTION, make_task(tiny, "vase", 2).generator("lora"))
    for k, v in first.tensors_of("adapter").items():
        torch.testing.assert_close(near[k], v, atol=1e-7, rtol=0)
        assert float((fresh[k].detach() - v).abs().max()) > 1e-3


def test_a_word_begins_as_its_class_noun(tiny: Backbone, make_task: MakeTask) -> None:
    for kind in (SequentialLora, Isolated):
        state = learn(tiny, make_task, kind, 1, None, STILL)
        assert torch.equal(state.tensors["token/dog"], tiny.word_embedding("dog"))


def test_seqlora_installs_the_adapter_and_all_words(tiny: Backbone, make_task: MakeTask) -> None:
    _, second = both(tiny, make_task, SequentialLora)
    hashes = set()
    for concepts in ((), ("dog",), ("vase",), ("dog", "vase")):
        with tiny.installed(SequentialLora(SMALL), second, concepts):
            assert all(torch.equal(v, second.tensors_of("adapter")[k]) for k, v in tiny.lora_parameters.items())
            for word, concept in (("v1", "dog"), ("v2", "vase")):
                assert torch.equal(tiny.token_embeddings[word], second.tensors[f"token/{concept}"])
            ids = tiny.tokenizer("<v1> <v2>", add_special_tokens=False).input_ids
            assert ids == [len(tiny.tokenizer) - 2, len(tiny.tokenizer) - 1]
            hashes.add(tiny.installed_hash())
    assert len(hashes) == 1  # one model for every concept


# Words, for all methods that have one a concept


def two_words(backbone: Backbone) -> State:
    g = torch.Generator().manual_seed(0)
    tensors = {f"token/{c}": torch.randn(16, generator=g) for c in ("vase", "dog")}
    tensors["adapter/a"] = torch.ones(3)
    return State(tensors, {"concepts": ["vase", "dog"], "nouns": {"vase": "vase"}})


def ids_of(backbone: Backbone, *words: str) -> list[list[int]]:
    return [backbone.tokenizer(w, add_special_tokens=False).input_ids for w in words]


def test_a_new_word_comes_after_the_earlier_ones(tiny: Backbone, make_task: MakeTask) -> None:
    state, plain, start = two_words(tiny), len(tiny.tokenizer), torch.linspace(-1, 1, 16)
    kept = {k: v.clone() for k, v in state.tensors.items()}
    after, row = add_words(tiny, make_task(tiny, "dog2", 3), state, start)
    assert ids_of(tiny, "<v1>", "<v2>", "<v3>") == [[plain], [plain + 1], [plain + 2]]
    for i, concept in enumerate(("vase", "dog"), 1):
        assert torch.equal(tiny.token_embeddings[f"v{i}"], kept[f"token/{concept}"])
    assert tiny.token_embeddings["v3"] is row and torch.equal(row, start) and row.requires_grad
    # the state to be filled: earlier rows as they were, earlier facts, and nothing else yet
    assert after.tensors.keys() == {"token/vase", "token/dog"}
    assert all(torch.equal(after.tensors[k], kept[k]) for k in after.tensors)
    assert after.facts == {"concepts": ["vase", "dog", "dog2"], "nouns": {"vase": "vase"}}
    # what was given is not written to
    assert state.concepts == ["vase", "dog"] and state.tensors.keys() == kept.keys()
    after.tensors["token/dog2"] = row.detach()
    assert "token/dog2" not in state.tensors


def test_the_first_word_needs_no_state(tiny: Backbone, make_task: MakeTask) -> None:
    after, row = add_words(tiny, make_task(tiny), State(), torch.zeros(16))
    assert after.concepts == ["dog"] and after.tensors == {}
    assert list(tiny.token_embeddings) == ["v1"] and tiny.token_embeddings["v1"] is row


def test_words_may_have_names_of_their_own(tiny: Backbone, make_task: MakeTask) -> None:
    def name_of(concept: str, state: State) -> str:
        return f"<my-{concept}-{state.concepts.index(concept)}>"

    state, plain = two_words(tiny), len(tiny.tokenizer)
    add_words(tiny, make_task(tiny, "dog2", 3), state, torch.zeros(16), name_of)
    words = ("<my-vase-0>", "<my-dog-1>", "<my-dog2-2>")
    assert ids_of(tiny, *words) == [[plain], [plain + 1], [plain + 2]]
    assert all(len(i) > 1 for i in ids_of(tiny, "<v1>", "<v2>", "<v3>"))
    tiny.restore()
    add_tokens(tiny, state, name_of)
    assert ids_of(tiny, *words[:2]) == [[plain], [plain + 1]] and len(tiny.tokenizer) == plain + 2
    assert torch.equal(tiny.token_embeddings["my-dog-1"], state.tensors["token/dog"])


# Both


def test_isolated_and_seqlora_agree_on_task_1_bit_for_bit(tiny: Backbone, make_task: MakeTask) -> None:
    alone = learn(tiny, make_task, Isolated, 1, None)
    shared = learn(tiny, make_task, SequentialLora, 1, None)
    assert alone.tensors_of("adapter/dog").keys() == shared.tensors_of("adapter").keys() == names_of(tiny, 2).keys()
    for k, v in shared.tensors_of("adapter").items():
        assert torch.equal(alone.tensors_of("adapter/dog")[k], v)
        assert float(v.abs().max()) > 0  # B has left zero
    assert torch.equal(alone.tensors["token/dog"], shared.tensors["token/dog"])
    assert not torch.equal(alone.tensors["token/dog"], tiny.word_embedding("dog"))
    assert torch.equal(picture(tiny, Isolated, alone, "dog"), picture(tiny, SequentialLora, shared, "dog"))


@pytest.mark.parametrize("kind", [Isolated, SequentialLora])
def test_options_say_what_is_adapted_and_what_it_costs(tiny: Backbone, make_task: MakeTask, kind: type[Method]) -> None:
    options = LoraOptions(rank=3, steps=2, batch_size=3, target_modules=("attn2.to_k", "conv_in"))
    before, tiny.trainable_parameters = tiny.unet_evaluations, 0
    state = learn(tiny, make_task, kind, 1, None, options)
    assert tiny.unet_evaluations - before == 2 * 3
    adapted = {k.rsplit(".", 1)[0].split("/")[-1] for k in state.tensors if k.startswith("adapter/")}
    assert adapted == {n for n, _ in tiny.denoiser.named_modules() if n.endswith("attn2.to_k") or n == "conv_in"}
    assert tiny.trainable_parameters == sum(v.numel() for v in state.tensors.values())


@pytest.mark.parametrize("kind", [Isolated, SequentialLora])
def test_semantic_preservation_keeps_the_words_near_the_noun(
    tiny: Backbone, make_task: MakeTask, kind: type[Method]
) -> None:
    far: dict[float, float] = {}
    for weight in (0.0, 10.0):
        figures: list[dict[str, float]] = []
        task = make_task(tiny, log=lambda step, figures=figures, **found: figures.append(found))
        options = SMALL.model_copy(update={"spl_weight": weight, "steps": 30, "token_learning_rate": 3e-3})
        state = kind(options).learn(tiny, task, State())
        measured = SemanticPreservationOptions(spl_weight=1)
        far[weight] = float(
            semantic_preservation_term(tiny, kind(options).phrase("dog", "dog", state), "dog", measured)()[
                "semantic"
            ].detach()
        )
        tiny.restore()
        assert ("semantic" in figures[0]) is (weight > 0)
        assert all(f["loss"] == pytest.approx(f["denoising"] + f.get("semantic", 0), rel=1e-5) for f in figures)
    assert far[10.0] < 0.7 * far[0.0]


def test_words_are_numbered_in_the_order_of_learning() -> None:
    state = State({}, {"concepts": ["vase", "dog", "dog2"]})
    assert [token_of(c, state) for c in ("dog", "dog2", "vase")] == ["<v2>", "<v3>", "<v1>"]
    for kind in (Isolated, SequentialLora):
        assert kind().phrase("dog2", "dog", state) == "<v3> dog"
        with pytest.raises(ValueError, match="cat"):
            kind().phrase("cat", "cat", state)


def test_a_method_file_imports_no_library_of_models() -> None:
    """`cpbench describe` and a dry run load method files only: models' libraries take seconds, and need torchvision repaired."""
    code = """
import sys
from cpbench.registry import built_in_methods, load_method
for name in built_in_methods():
    load_method(name)
print([name for name in ("peft", "diffusers", "transformers", "torchvision") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
