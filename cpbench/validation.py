"""Validation of user input by pydantic models: one clear line for the first error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cpbench.errors import MOST_LISTED, UserError, did_you_mean, quoted
from cpbench.files import FILE_NAME

Place = tuple[str | int, ...]  # keys and indices, as pydantic's `loc`
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
# Clearer messages than pydantic's own, by its error type or the first word of that
REASONS = {
    "string_type": "must be text, not {value}; put it in quotes",
    "string_too_short": "must have {min_length} or more characters, not {value}",
    "int": "must be a whole number, not {value}",
    "float": "must be a number, not {value}",
    "bool": "must be true or false, not {value}",
    "list": "must be a list, such as [a, b], not {value}",
    "tuple": "must be a list, such as [a, b], not {value}",
    "too_short": "must be a list with {min_length} or more entries, not {value}",
    "too_long": "must be a list with at most {max_length} entries, not {actual_length}",
    "dict": "must be a mapping, such as {{key: value}}, not {value}",
    "path_type": "must be a path, not {value}",
}


def validated(model: type[BaseModel], values: Any, label: str) -> Any:
    """The model with these values. UserError, "label: location: reason", for the first error."""
    try:
        instance = model.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = next(
            (e for e in errors if e["type"] in UNKNOWN_KEY), errors[0]
        )  # a misspelt key may be the reason why another is missing
        raise UserError(f"{label}: {_said(model, values, first)}") from None
    for place, reason in _slipped_through(values, instance, ()):
        raise UserError(f"{label}: {_where(values, place)}: {reason}")
    return instance


def _said(model: type[BaseModel], values: Any, error: Any) -> str:
    error_type, place, value = error["type"], error["loc"], error["input"]
    if error_type in UNKNOWN_KEY:
        place, key = place[:-1], place[-1]
        keys = list(_model_at(model, place).model_fields)
        key = value if error_type == "invalid_key" else key
        reason = (
            str(did_you_mean(key, keys, "key", most=len(keys)))
            if keys
            else f"takes no options; leave out {quoted(key)}"
        )
    elif error_type == "missing":
        place, key = place[:-1], place[-1]
        reason = f"the key {quoted(key)} is missing; add it"
    elif error_type == "model_type":
        keys = list(_model_at(model, place).model_fields)
        listed = ", ".join(keys[:MOST_LISTED]) + ", ..." * (len(keys) > MOST_LISTED)
        reason = f"must be a mapping with the keys {listed}, not {quoted(value)}"
    elif error_type == "value_error":
        reason = str(error["ctx"]["error"])
    elif own_words := REASONS.get(error_type) or REASONS.get(error_type.partition("_")[0]):
        reason = own_words.format(value=quoted(value), **error.get("ctx", {}))
    else:
        its_words = error["msg"].replace("Input should be", "must be")
        reason = f"{its_words[:1].lower()}{its_words[1:]}, not {quoted(value)}"
    location = _where(values, place)
    return f"{location}: {reason}" if location else reason


def _where(values: Any, place: Place) -> str:
    """("concepts", 1, "images", "folder") becomes "concept 2 (cup): images.folder", if the name of that entry is cup."""
    location, sign = "", ""
    for part in place:
        if part == "[key]":  # a key of a mapping, rather than its value
            break
        if isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part]
            name = values.get("name") if isinstance(values, dict) else None
            named = f" ({name})" if isinstance(name, str) and FILE_NAME.fullmatch(name) else ""
            location, sign = f"{location.removesuffix('s')} {part + 1}{named}", ": "
        else:
            values = values.get(part) if isinstance(values, dict) else None
            location, sign = f"{location}{sign}{part}", "."
    return location


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """The model expected at a place in the values of another."""
    for part in place:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _slipped_through(value: Any, parsed: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """(place, reason) of values that pydantic wrongly accepts: true and false as numbers, and text with a NUL byte."""
    if isinstance(value, bool) and not isinstance(parsed, bool) and isinstance(parsed, int | float):
        yield place, REASONS["float"].format(value=value)
    elif isinstance(value, str) and "\0" in value:
        yield place, f"{quoted(value)} has a NUL byte in it; leave it out"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _slipped_through(inner, getattr(parsed, str(key), None), (*place, key))
    elif isinstance(value, list | tuple):
        parts = parsed if isinstance(parsed, list | tuple) else value
        for n, (inner, part) in enumerate(zip(value, parts, strict=False)):
            yield from _slipped_through(inner, part, (*place, n))
