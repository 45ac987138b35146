"""A judge's identity: the part that affects scores, the part that older records lack, and how users write preprocessing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

# names, places and a library's version do not affect scores; everything else in an identity does
NOT_COUNTED = ("library", "model", "source", "preprocessing_from")
# equal for all runs of one table, see `record.JudgeFacts`
COMPARED = (
    "model", "weights_sha256", "preprocessing", "feature", "pair_rule", "text_rule", "architecture", "tokenizer",
)  # fmt: skip
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
LIKE = "resize=256,crop=224,interpolation=bicubic,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"

# `judge.tokenizer_hash` of open_clip's tokenizer of 77 tokens
OPENAI_WORDS = "0e918299c6f6ee665e7376b1d0c36fd365e759e3b533a454a0f58e4c404d7579"
# Facts that older records lack, by facts that they have: for the miniature's judges by their weights, for published ones by
# their name, which older versions of cpbench gave only to judges loaded in this way.
OF_WEIGHTS = {
    "8fb940c351aa2734f234e150517f1a2d70b9bb3583ea301503758680698ff6ae": {
        "architecture": "e1819f5e3045940df9cb47eeb8460699260c3b8a0a0936ff4b9ba39bf4ebc585",
        "tokenizer": "6570bfba2d93c3c5794461ebdd9bd38adcd0b0627fefa2dcdc7155a94c83b91b",
    },
    "aeb5979caee028b43955a0ea0fde99f768125df828b6ceb7a31c294339755d92": {
        "architecture": "3bf7081e0844c566d995ea99b34f1c0e3ba7f43b6951862abe3e45e57c38bda1"
    },
}
OF_MODELS = {
    "clip-vit-b-32 (ViT-B-32-quickgelu)": {"architecture": "ViT-B-32-quickgelu", "tokenizer": OPENAI_WORDS},
    "clip-vit-l-14 (ViT-L-14-quickgelu)": {"architecture": "ViT-L-14-quickgelu", "tokenizer": OPENAI_WORDS},
    "dino-vit-s-16 (vit_small_patch16_224.dino)": {"architecture": "vit_small_patch16_224.dino"},
    "dinov2-vit-s-14 (vit_small_patch14_dinov2.lvd142m)": {"architecture": "vit_small_patch14_dinov2.lvd142m"},
}


# The miniature's judges by their weights; their records call them "clip" and "dino".
OF_THE_MINIATURE = {
    "8fb940c351aa2734f234e150517f1a2d70b9bb3583ea301503758680698ff6ae": "miniature's CLIP (ResNet, 64 px)",
    "aeb5979caee028b43955a0ea0fde99f768125df828b6ceb7a31c294339755d92": "miniature's DINO (XCiT, 64 px)",
}


def title(identity: Mapping[str, Any]) -> str:
    """What a judge is called wherever its scores are shown: the recorded name, which says too little of the miniature's."""
    return OF_THE_MINIATURE.get(str(identity.get("weights_sha256")), str(identity.get("model", "?")))


def caveat(identities: Iterable[Mapping[str, Any]]) -> str:
    """The line under a table of scores by the miniature's judges; "" where none of the judges is one of them."""
    titles = [title(judge) for judge in identities if str(judge.get("weights_sha256")) in OF_THE_MINIATURE]
    return f"Scores by {' and '.join(titles)} are not comparable with published ones." if titles else ""


def counted(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a judge's identity that affects scores: weights, architecture, preprocessing, tokenizer, feature, rules."""
    return {k: v for k, v in sorted(identity.items()) if k not in NOT_COUNTED}


def key(facts: Mapping[str, Any]) -> str:
    """Sixteen hex digits over facts (any JSON)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def completed(identity: Any) -> Any:
    """A recorded identity with the facts it is too old to have, if they are known; anything but a mapping is returned as it is."""
    return _known(identity) | identity if isinstance(identity, dict) else identity


def abridged(identity: Any) -> Any:
    """The reverse of `completed`: a recorded identity without the facts that `completed` would add."""
    if not isinstance(identity, dict):
        return identity
    defaults = _known(identity)
    return {k: v for k, v in identity.items() if k not in defaults or defaults[k] != v}


def _known(identity: Mapping[str, Any]) -> dict[str, str]:
    weights, model = str(identity.get("weights_sha256")), str(identity.get("model"))
    return OF_WEIGHTS.get(weights, OF_MODELS.get(model, {}))


def preprocessing_settings(text: str) -> dict[str, Any]:
    """The settings in --clip-preprocessing or --dino-preprocessing, by name; colours are one number, or three separated by "/".

    ValueError for anything not of the form of `LIKE`. Each of its parts is optional.
    """
    settings: dict[str, Any] = {}
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        try:
            if name in settings:
                raise ValueError("twice")
            if name in ("resize", "crop"):
                settings[name] = int(value)
            elif name == "interpolation" and value in INTERPOLATIONS:
                settings[name] = value
            elif name in ("mean", "std"):
                numbers = [float(number) for number in value.split("/")]
                if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
                    raise ValueError("not a colour")
                settings[name] = tuple(numbers * 3 if len(numbers) == 1 else numbers)
            else:
                raise ValueError("unknown")
        except ValueError:
            raise ValueError(f"{word.strip()!r} is no part of a preprocessing; write it like {LIKE}") from None
    return settings
