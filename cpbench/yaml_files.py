"""YAML that anybody may have written: with limits, and errors of one line."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Any

import yaml

from cpbench.errors import MOST_SHOWN, UserError, quoted

MOST_BYTES = 2**18  # of a YAML file; the longest of our own has 6 kB
MOST_VALUES = 20_000  # in a YAML file, those that an alias repeats counted each time
LONGEST_NUMBER = 40  # characters


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but some files that it takes are errors.

    A key that is written twice (PyYAML keeps the last in silence), aliases of aliases that grow without end, and numbers
    of thousands of digits.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.values = 0
        self.values_in: dict[int, int] = {}  # by a node's id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        before, alias = self.values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.values += self.values_in.get(id(node), MOST_VALUES) if alias else 1  # not there: it contains itself
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
for _tag in ("binary", "omap", "pairs", "set"):  # nobody writes them; bytes would pass for text, and sets have no order
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_undefined)


def read_yaml(file: Traversable, label: str, hint: str = "check the path") -> Any:
    """What the YAML file says. UserError, in one line, if it cannot be read; `hint`: what to do if there is none."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{label}: there is no such file; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be read ({reason}); name a YAML file") from None
    return from_yaml(text, label)


def from_yaml(text: str | bytes, label: str) -> Any:
    """What YAML text says. UserError, in one line that begins with `shown`, with the line's number if there is one."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{label}: has more than {MOST_BYTES // 2**10} kB, too many for what it should say; shorten it")
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
