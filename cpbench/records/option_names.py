"""Options of the built-in methods that cpbench 0.1 called by other names.

Records are read by today's names and stay as they were written. Settings by the old names, from the command line, a config
file, a grid or `cpbench.run`, are accepted until 0.3, with one warning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cpbench import moved

RENAMED = {  # method: its options by their old names, and today's
    "cidm": {"towards_ones": "ones_penalty"},
    "clora": {"keep_noun": "use_class_noun"},
    "dataperspective": {"caption_draws": "caption_samples"},
    "dcscore": {"c0": "null_prompt", "fisher_draws": "fisher_samples"},
    "ewc": {"fisher_draws": "fisher_samples"},
    "stamina": {"keep_noun": "use_class_noun"},
}


def recorded(method: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A record's options by today's names, in their order.

    method: as the record names it; the options of any but a built-in method are returned unchanged.
    """
    names = RENAMED.get(method, {}) if isinstance(method, str) else {}
    return {names.get(name, name): value for name, value in options.items()}


def accepted(options: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """A user's settings by today's names, with one warning per old name.

    fields: the names that the method's options have. A method of the user's own may extend a built-in one, or have an option
    called by one of the old names: a name is replaced where the method has the new one and not the old one.
    """
    names = {
        old: new for table in RENAMED.values() for old, new in table.items() if old not in fields and new in fields
    }
    for old in sorted(names.keys() & options.keys()):
        moved.warn_once(f"option {old}", names[old], stacklevel=4)
    clashes = {old for old in names if names[old] in options}  # both are set: the old one is refused as an unknown key
    return {name if name in clashes else names.get(name, name): value for name, value in options.items()}
