"""The miniature's vocabulary: the part of CLIP's own BPE that the world's words need, and every byte.

Any word can be spelled (all 512 byte tokens are there); the words below are single tokens. The merges come from
open_clip's copy of CLIP's BPE, in their order, so each word is merged as CLIP merges it.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

from ..world import vocabulary

CONTEXT_LENGTH = 32
CLASS_NOUNS = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker",
    "dog", "toy", "boot", "glasses", "cartoon", "teapot", "vase",
)  # fmt: skip
EXTRA = "a an the photo picture drawing of painting image my his her sks rare and with in on near thing object animal person"


def words() -> list[str]:
    """The single-token words of the world, sorted."""
    return sorted(vocabulary() | {w for phrase in (*CLASS_NOUNS, EXTRA) for w in re.findall(r"[a-z]+", phrase)})


def merges_for(vocabulary: list[str], merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The merges, in rank order, that byte-pair encoding uses to turn each word into one token (or as few as CLIP does)."""
    rank = {pair: i for i, pair in enumerate(merges)}
    used: set[tuple[str, str]] = set()
    for word in vocabulary:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda pair: rank.get(pair, len(rank)))
            if best not in rank:
                break
            used.add(best)
            merged, i = [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
    return sorted(used, key=rank.__getitem__)


def save_tokenizer(folder: Path, whole: bool = False) -> None:
    """Write vocab.json, merges.txt, tokenizer.json and configs of a CLIPTokenizer into `folder`; `whole`: all of CLIP's."""
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from transformers import CLIPTokenizer

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    all_merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    merges = all_merges if whole else merges_for(words(), all_merges)
    letters = list(bytes_to_unicode().values())
    tokens = [
        *letters,
        *(b + "</w>" for b in letters),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT_LENGTH).save_pretrained(folder)
    # transformers 5 writes tokenizer.json only; older readers want the two files CLIP came with
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n", encoding="utf-8"
    )
