"""The places of subjects: one function per place, one module per group. `PLACES` has all of them, in DreamBench's order.

A place is made of few large shapes: fine texture would cost the autoencoder the detail that subjects need.
"""

from . import indoors, nature, town, waters
from .ground import GROUND, Place, studio
from .ground import PLACES as _ANY_ORDER

DREAMBENCH_ORDER = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
PLACES: dict[str, Place] = {name: _ANY_ORDER[name] for name in dict.fromkeys((*DREAMBENCH_ORDER, *_ANY_ORDER))}

__all__ = ["GROUND", "PLACES", "Place", "indoors", "nature", "studio", "town", "waters"]
