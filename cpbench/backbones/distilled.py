"""Models distilled to draw in a few steps, such as schnell and turbo: the usual loss undoes what they were distilled for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpbench.errors import UserError

NAMES = re.compile(r"turbo|schnell|lightning|hyper-?sd|sprint|klein(?!.*base)|(?<![a-z])lcm(?![a-z])", re.IGNORECASE)


def reason(name: str, denoiser_config: Mapping[str, Any]) -> str | None:
    """Why a backbone is taken for a distilled one, by its hub id or folder and its denoiser's config; None if it is not."""
    if denoiser_config.get("guidance_embeds") is False and "num_single_layers" in denoiser_config:
        return "its transformer has no guidance as an input, as FLUX.1-schnell's has none"
    for part in Path(name).parts[-2:]:
        if hit := NAMES.search(part):
            return f"{hit[0]!r} is in its name"
    return None


def refuse(backbone: Any) -> None:
    """UserError for a distilled model."""
    if (cause := reason(backbone.name, backbone.denoiser.config)) is not None:
        raise UserError(
            f"backbone {backbone.name}: it is distilled for a few steps ({cause}), and learning by the usual loss undoes that; use "
            "the model that it was distilled from, or pass --allow-distilled"
        )
