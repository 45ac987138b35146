"""Untrusted YAML files: limits on their size, and errors in one line."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Any

import yaml

from cpbench.errors import MOST_SHOWN, UserError, quoted

MOST_BYTES = 2**18  # of a YAML file; our longest has 6 kB
MOST_VALUES = 20_000  # in a YAML file; values repeated by an alias count each time
LONGEST_NUMBER = 40  # characters


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with more errors.

    These are errors: a key that occurs twice (PyYAML silently keeps the last), aliases of aliases that grow without bound,
    and numbers with thousands of digits.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.values = 0
        self.values_in: dict[int, int] = {}  # by a node's id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        before, alias = self.values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.values += self.values_in.get(id(node), MOST_VALUES) if alias else 1  # an alias of a node that contains it
        self.values_in.setdefault(id(node), self.values - before)
        if self.values > MOST_VALUES:
            reason = f"more than {MOST_VALUES:,} values, with those that aliases repeat"
            raise yaml.MarkedYAMLError(None, None, reason, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.MarkedYAMLError(None, None, f"the key {quoted(key.value)} occurs twice", key.start_mark)
            keys.add(key.value)
        return node

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > LONGEST_NUMBER:
            reason = f"a number of {len(node.value):,} digits; put it in quotes if it is a name"
            raise yaml.MarkedYAMLError(None, None, reason, node.start_mark)
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)
for _tag in ("binary", "omap", "pairs", "set"):  # not needed; bytes would pass for text, and sets have no order
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_undefined)


def read_yaml(file: Traversable, label: str, hint: str = "check the path") -> Any:
    """The content of the YAML file. UserError, in one line, if it cannot be read; hint: what to do if there is no such file."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{label}: there is no such file; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be read ({reason}); pass a YAML file") from None
    return from_yaml(text, label)


def from_yaml(text: str | bytes, label: str) -> Any:
    """The content of YAML text. UserError, in one line that begins with `label`, with the line number if there is one."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{label}: has more than {MOST_BYTES // 2**10} kB, too many for such a file; shorten it")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise UserError(f"{label}: not valid YAML: not a text file in UTF-8; save it as one") from None
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        reason, hint = f"{error.problem or error.context}"[:MOST_SHOWN], ""
        if "{}" in text and "flow" in f"{error.context}":
            hint = "; inside [...] put templates in quotes"
        raise UserError(f"{label}: {line}not valid YAML: {reason}{hint}") from None
    except RecursionError:  # [[[[...
        raise UserError(f"{label}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # control characters; 2024-13-45
        raise UserError(f"{label}: not valid YAML: {error}") from None
    except Exception:  # !!bool maybe, !!int "": PyYAML's constructors raise anything
        raise UserError(
            f"{label}: not valid YAML: a value is not what its tag (!!...) says; leave the tag out"
        ) from None
