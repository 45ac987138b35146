"""Prompts that are too long for a text encoder or the CLIP judge, which silently cut off the end.

If the concept's own word is cut off, a dog and a cat have the same prompt, which is an error. If only words after it are cut
off, a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cpbench.concepts.schema import SLOT
from cpbench.errors import UserError, quoted

CLIP_READS = 75  # tokens of a prompt, by CLIP's text encoder: Stable Diffusion's, and the judge's


@dataclass(frozen=True)
class Reader:
    """A reader of prompts. most: the tokens it reads of a prompt; count: tokens of a text; added: tokens of a learned word."""

    name: str
    most: int
    count: Callable[[str], int]
    added: int = 0

    def lacks(self, ahead: str, whole: str, words: int = 1) -> str:
        """The part of a prompt that is cut off: "concept", "end", or "" for none.

        ahead: the prompt up to its last concept; words: the number of words that will be learned for them, see `added`.
        """
        more = self.added * words
        if len(whole) + more <= self.most:  # a token has a character at least
            return ""
        if self.count(ahead) + more > self.most:
            return "concept"
        return "end" if self.count(whole) + more > self.most else ""


def filled(template: str, words: Sequence[str]) -> tuple[str, str]:
    """(ahead, whole) for a template with these words in its slots, see `Reader.lacks`; without a slot nothing is ahead."""
    end = template.rindex(SLOT) + len(SLOT) if SLOT in template else 0
    return template[:end].format(*words), template.format(*words)


def readers_of(backbone: Any, judge_tokenizer: Any = None, added: int = 0) -> list[Reader]:
    """The backbone's text encoders, with the installed words, and the CLIP judge if its tokenizer is given."""
    readers = []
    for encoder in backbone.vocabulary.encoders:
        tokenizer = getattr(backbone.pipe, encoder.tokenizer_name)
        most = encoder.max_length - encoder.tokenizer.num_special_tokens_to_add()
        readers.append(Reader("the text encoder", most, _counting(tokenizer), added))
    if judge_tokenizer is not None:
        readers.append(Reader("the CLIP judge", judge_tokenizer.context_length - 2, _counting(judge_tokenizer)))
    return readers


def _counting(tokenizer: Any) -> Callable[[str], int]:
    """A function for the number of a text's tokens without begin and end: for a tokenizer of transformers or open_clip."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(inner, "num_special_tokens_to_add"):
        return lambda text: len(inner(text, add_special_tokens=False, verbose=False).input_ids)
    return lambda text: len(tokenizer.encode(text))


def usual() -> Reader:
    """CLIP's own text encoder, for prompts without a backbone yet."""

    def count(text: str) -> int:
        from cpbench import torchvision_compat

        torchvision_compat.apply()
        from open_clip.tokenizer import SimpleTokenizer

        return len(SimpleTokenizer().encode(text))

    return Reader("CLIP's text encoder", CLIP_READS, count, added=1)


def refuse_cut(readers: Iterable[Reader], ahead: str, whole: str, words: int = 1) -> None:
    """UserError if a reader cuts off one of a prompt's concepts."""
    for reader in readers:
        if reader.lacks(ahead, whole, words) == "concept":
            raise UserError(
                f"prompt {quoted(whole)}: {reader.name} reads {reader.most} tokens, and the words for the concept end after "
                "those, so it would not be asked for; shorten the prompt or the class noun"
            )


def check(readers: Sequence[Reader], cells: Iterable[Any]) -> list[str]:
    """One line per reader that cuts off the end of some prompts. UserError as in `refuse_cut`."""
    prompts = dict.fromkeys((*filled(t, cell.nouns), len(cell.nouns)) for cell in cells for t in cell.templates)
    lines = []
    for prompt in prompts:
        refuse_cut(readers, *prompt)
    for reader in readers:
        if cut := [whole for ahead, whole, words in prompts if reader.lacks(ahead, whole, words)]:
            lines.append(
                f"{len(cut)} prompt{'s are' if len(cut) > 1 else ' is'} longer than the {reader.most} tokens that "
                f"{reader.name} reads, so their end is ignored (the first: {quoted(cut[0])})"
            )
    return list(dict.fromkeys(lines))
