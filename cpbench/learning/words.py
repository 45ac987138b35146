"""The words that stand for concepts in prompts: a learned one, a rare one of the vocabulary, or none beside the class noun."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.vocabulary import WordEncoders
from cpbench.method import Options, State, Task

# of "Low-Rank Continual Personalization", in its order; the first is what Hugging Face's DreamBooth scripts use
RARE = ("sks", "zwz", "sbu", "uwu", "pdw", "twt", "zsn", "ofl", "psq", "cws")
SHORTEST, MOST_TOKENS = 3, 3  # characters of a rare word, and tokens in each encoder
ENOUGH = 1000  # short words that a vocabulary must have for some of them to be rare


class WordOptions(Options):
    """Options of a method that trains a LoRA beside a word for each concept."""

    word: Literal["learned", "rare", "none"] = Field(
        "learned",
        description="what stands before the class noun: a new word that is trained; a rare word of the vocabulary, as in DreamBooth; "
        "or nothing, where no class noun comes twice",
    )

    only: ClassVar = dict.fromkeys(("token_learning_rate", "word_encoders", "spl_weight"), {"word": ("learned",)})
    later: ClassVar = {"word": "learned"}


def token_of(concept: str, state: State) -> str:
    """The word of a concept: <v1>, <v2>, ... in the order of learning, or the rare one; "" if it has none."""
    return state.facts.get("words", {}).get(concept, f"<v{state.concepts.index(concept) + 1}>")


def phrase_of(concept: str, class_noun: str, state: State) -> str:
    """The concept's word and its class noun."""
    return f"{token_of(concept, state)} {class_noun}".strip()


def add_tokens(
    backbone: Backbone,
    state: State,
    token_of: Callable[[str, State], str] = token_of,
    concepts: Sequence[str] | None = None,
) -> None:
    """Add the new words of the concepts in `state` to the backbone, in the order of learning; rare ones are there.

    token_of: the word of a concept; the default gives <v1>, <v2>, ... concepts: only these.
    """
    embeddings = state.tensors_of("token")
    for concept in state.concepts if concepts is None else concepts:
        if concept not in state.facts.get("words", {}):
            backbone.add_token(token_of(concept, state), embeddings[concept])


def add_words(
    backbone: Backbone,
    task: Task,
    state: State,
    start: torch.Tensor,
    token_of: Callable[[str, State], str] = token_of,
    word_encoders: WordEncoders = "all",
) -> tuple[State, nn.Parameter]:
    """Add the earlier concepts' words, and a new word for this task that starts with the embedding `start` (d,).

    word_encoders: the text encoders that train the new word, see `Vocabulary.add`.
    Returns (the next state, which so far holds the earlier words' embeddings; the new word's embedding, a parameter).
    """
    add_tokens(backbone, state, token_of)
    after = next_state(task, state)
    return after, backbone.add_token(token_of(task.concept, after), start, word_encoders)


def add_fixed_word(backbone: Backbone, task: Task, state: State, word: Literal["rare", "none"]) -> State:
    """As `add_words`, with a word for this task that is not trained; the state says which, and its token ids.

    "rare": the next of `RARE`, then one of the short words of the vocabulary (DreamBooth's rule: at most three characters) that no
    evaluation prompt has; one to three tokens in each encoder, none of them of another concept's word. A vocabulary with too
    few short words gets a new one with a random embedding.
    """
    add_tokens(backbone, state)
    after = next_state(task, state)
    facts = after.facts
    if word == "none":
        facts["words"] = {**facts.get("words", {}), task.concept: ""}
        return after
    candidate = next(rare_words(backbone, task, state), None)
    if candidate is None:
        V = backbone.random_embedding(task.generator("identifier"))
        after.tensors[f"token/{task.concept}"] = V
        backbone.add_token(token_of(task.concept, after), V)
        return after
    rare, ids = candidate
    facts["words"] = {**facts.get("words", {}), task.concept: rare}
    facts["word_ids"] = {**facts.get("word_ids", {}), task.concept: ids}
    return after


def next_state(task: Task, state: State) -> State:
    """The words and facts of `state`, and the task's concept among the learned ones."""
    embeddings = {k: v for k, v in state.tensors.items() if k.startswith("token/")}
    return State(embeddings, {**state.facts, "concepts": [*state.concepts, task.concept]})


def rare_words(backbone: Backbone, task: Task, state: State) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """(word, its ids by tokenizer) of those that the task may take; none where the vocabulary has too few short words."""
    encoders = backbone.vocabulary.encoders
    short = _short_words(encoders[0].tokenizer)
    if len(short) < ENOUGH:
        return
    rarest = short[len(short) // 2 :]  # a vocabulary begins with its most frequent pieces
    order = torch.randperm(len(rarest), generator=task.shared_generator("rare")).tolist()

    def ids_of(text: str) -> dict[str, list[int]]:
        prefixes = {e.tokenizer_name: " " if e.is_spaced else "" for e in encoders}
        return {
            e.tokenizer_name: e.tokenizer(prefixes[e.tokenizer_name] + text, add_special_tokens=False).input_ids
            for e in encoders
        }

    used_ids = {e.tokenizer_name: set[int]() for e in encoders}
    other_words = [ids_of(word) for word in sorted(task.used_words)] + list(state.facts.get("word_ids", {}).values())
    for ids in other_words:
        for name, values in ids.items():
            used_ids[name] |= set(values)
    for text in (*RARE, *(rarest[k] for k in order)):
        ids = ids_of(text)
        if all(1 <= len(values) <= MOST_TOKENS and not used_ids[name] & set(values) for name, values in ids.items()):
            yield text, ids


@functools.lru_cache(maxsize=4)
def _short_words(tokenizer: Any) -> tuple[str, ...]:
    """The short words of its vocabulary, the most frequent first."""
    table = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    texts = [tokenizer.convert_tokens_to_string([piece]).strip() for piece, _ in table]
    return tuple(text for text in dict.fromkeys(texts) if text.isascii() and text.isalpha() and len(text) <= SHORTEST)
