"""Concepts without a learned word: a rare word of the vocabulary, a fixed random row, or the class noun alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learners import CONCEPTS, SHORT, MakeTask, learn
from test_vocabulary import with_clips_tokenizer

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.concepts import sequences
from cpbench.errors import UserError
from cpbench.learning import LoraOptions, add_fixed_word
from cpbench.learning.words import RARE
from cpbench.method import State
from cpbench.registry import built_in_methods, load_method
from cpbench.running import cells

WITH_LORA = [m for m in built_in_methods() if issubclass(load_method(m).Options, LoraOptions)]
OWN_WORDS = ("cidm", "stamina")


@pytest.fixture(scope="module")
def clip(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The tiny pipeline with CLIP's own tokenizer."""
    return loading.load(str(with_clips_tokenizer(tiny_folder, tmp_path_factory.mktemp("clip") / "copy")))


def named(backbone: Backbone, make_task: MakeTask, count: int, used: frozenset[str], seed: int = 0) -> State:
    """The state after so many concepts with rare words."""
    state, task = State(), make_task(backbone, "dog", 1, seed=seed)
    for k in range(count):
        state = add_fixed_word(backbone, replace(task, concept=f"c{k}", used_words=used), state, "rare")
        backbone.restore()
    return state


def test_rare_words_share_no_token_with_each_other_or_with_a_prompt(clip: Backbone, make_task: MakeTask) -> None:
    used = cells.words_of(sequences.load("dreambench10"))
    state = named(clip, make_task, 30, used)
    words, ids = state.facts["words"], state.facts["word_ids"]
    assert words["c0"] == "sks" and len(set(words.values())) == 30 and not state.tensors
    assert sum(word in RARE for word in words.values()) > 5
    taken = {i for word in used for i in clip.tokenizer(word, add_special_tokens=False).input_ids}
    for concept, word in words.items():
        (own,) = ids[concept].values()
        assert own == clip.tokenizer(word, add_special_tokens=False).input_ids and 1 <= len(own) <= 3
        assert len(word) <= 3 and not taken & set(own)
        taken |= set(own)
    assert named(clip, make_task, 30, used).facts == state.facts
    assert named(clip, make_task, 30, used, seed=1).facts["words"] != words


def test_a_prompts_word_is_never_a_concepts(clip: Backbone, make_task: MakeTask) -> None:
    assert named(clip, make_task, 1, frozenset({"sks"})).facts["words"]["c0"] != "sks"


def test_the_words_of_a_sequence_are_those_of_its_prompts_and_nouns() -> None:
    words = cells.words_of(sequences.load("continual-lora10"))
    assert {"purple", "wizard", "jail", "sunglasses", "stuffed", "animal", "a"} - {"sunglasses"} <= words
    assert "sks" not in words and all(word.isalpha() and word.islower() for word in words)


def test_a_vocabulary_with_few_short_words_gets_a_random_row_that_stays(tiny: Backbone, make_task: MakeTask) -> None:
    learned = learn(load_method("seqlora"), tiny, make_task, 1, None, word="rare")
    V = tiny.random_embedding(make_task(tiny, "dog", 1).generator("identifier"))
    assert torch.equal(learned.state.tensors["token/dog"], V) and "words" not in learned.state.facts
    assert learned.trained == sum(p.numel() for p in learned.factors.values())


@pytest.mark.parametrize("word", ["rare", "none"])
@pytest.mark.parametrize("name", [m for m in WITH_LORA if m not in OWN_WORDS])
def test_each_lora_method_learns_without_a_trained_word(
    clip: Backbone, make_task: MakeTask, name: str, word: str
) -> None:
    kind, state = load_method(name), None
    options = {k: v for k, v in SHORT.items() if k in kind.Options.model_fields} | {"word": word}
    if name == "clora":
        options["use_class_noun"] = True
    for number in (1, 2):
        learned = learn(kind, clip, make_task, number, state, **options)
        state = learned.state
    method = kind(kind.Options(**options))
    phrases = [method.phrase(c, n, state) for c, n in (("dog", "dog"), ("vase", "vase"))]
    assert not state.tensors_of("token") and state.concepts == list(CONCEPTS[:2])
    if word == "none":
        assert phrases == ["dog", "vase"]
    else:
        assert phrases[0] == "sks dog" and phrases[1] != "sks vase" and phrases[1].endswith(" vase")
    with clip.installed(method, state, ("dog",)):
        assert not clip.token_embeddings


@pytest.mark.parametrize("name", OWN_WORDS)
def test_methods_whose_words_are_a_part_of_them_refuse(tiny: Backbone, name: str) -> None:
    kind = load_method(name)
    with pytest.raises(UserError, match="leave the option out"):
        kind(kind.Options(word="rare")).check(tiny)


def test_without_a_word_two_concepts_of_a_class_are_refused(call: Callable) -> None:
    code, _, said = call("run", "--method", "seqlora", "--sequence", "quick3", "--set", "word=none")
    (line,) = [line for line in said.splitlines() if "word=none" in line]
    assert code == 2 and "are both called 'dog'" in line and "Traceback" not in said


def test_clora_without_word_and_noun_is_refused(tiny: Backbone) -> None:
    kind = load_method("clora")
    with pytest.raises(UserError, match="use_class_noun=true"):
        kind(kind.Options(word="none")).check(tiny)
