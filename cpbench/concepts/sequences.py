"""Sequences of concepts: YAML files in `tasks/`, or any YAML file the user names.

    name: my-things
    version: 1                           # a new one whenever something that moves a score changes
    description: my dog and my cup       # may be left out
    prompts: dreambench                  # a set of tasks/prompts/ (the default), or {kind: [templates]}
    images: {folder: "photos/{name}"}    # or {drawn: true}, or both; a concept may have its own
    concepts:
      - {name: rex, class_noun: dog, kind: live}
      - {name: cup, class_noun: cup, kind: object}
    evaluation:                          # for every kind that occurs: some of its prompts, verbatim
      live: ["a {} in the snow", "a {} wearing a red hat"]
      object: ["a {} in the snow", "a wet {}"]
      pictures_per_prompt: 2             # this and what follows may be left out
      num_inference_steps: 10
      guidance_scale: 4.0
      photographs: {num_inference_steps: 50}   # other values where the pictures are photographs

A kind is live, object or style, and says which prompts suit the concept: a dog wears a hat, a style paints a dog.
In a template `{}` stands for the words for the concept, such as "<v3> dog". A `drawn` concept has a stand-in
of the same name in the miniature's world; that is the default where no folder is named. A relative folder is
relative to the user's YAML file; in a built-in sequence, to the folder cpbench is started in. Whether it
exists is for the image source to check: this module reads YAML only, and imports next to nothing.

The file may come from anybody: its size, its aliases and its numbers are bounded, `..` is refused, and a folder below
the file may not be a link that leads away from it.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, replace
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from cpbench.errors import UserError, near, quoted
from cpbench.files import FILE_NAME
from cpbench.yaml_files import MOST_BYTES, _Loader, from_yaml

Kind = Literal["live", "object", "style"]
KINDS: tuple[str, ...] = get_args(Kind)
SLOT = "{}"  # where a template takes the words for the concept
DEFAULT_PROMPTS = "dreambench"
ENTRY_POINTS = "cpbench.sequences"  # each names the path of a YAML file


@dataclass(frozen=True)
class Concept:
    """One thing to learn.

    name: the subject's; class_noun: the word for its class; kind: which prompts suit it; prompts: all
    templates of its kind, `{}` for the words for the concept; images: the folder of its photographs, None
    without any; drawn: whether the miniature's world has a stand-in of this name.
    """

    name: str
    class_noun: str
    kind: Kind
    prompts: tuple[str, ...]
    images: str | None = None
    drawn: bool = True


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a cell are drawn; the values are usual for photographs' backbones."""

    pictures_per_prompt: int = 4
    num_inference_steps: int = 50
    guidance_scale: float = 7.5


@dataclass(frozen=True)
class Evaluation:
    """What is drawn for every cell of the retention matrix: templates by kind, pictures a prompt, sampler."""

    prompts: dict[str, tuple[str, ...]]
    pictures_per_prompt: int = 2
    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    photographs: Drawing = Drawing()
    compositions: tuple[str, ...] = ()  # templates with two slots, for two concepts in one picture
    prior: tuple[str, ...] = ()  # templates for plain class nouns, after every task

    def drawing(self, drawn: bool) -> Drawing:
        """The values for the miniature's drawn concepts, or for photographs."""
        if not drawn:
            return self.photographs
        return Drawing(self.pictures_per_prompt, self.num_inference_steps, self.guidance_scale)


@dataclass(frozen=True)
class Sequence:
    """An ordered list of concepts and how they are tested; task t learns concepts[t - 1]."""

    name: str
    version: int
    description: str
    concepts: tuple[Concept, ...]
    evaluation: Evaluation


# What callers use


def names() -> list[str]:
    """The names of the built-in sequences, and of those that installed packages add, sorted."""
    return sorted({*_built_in(), *(e.name for e in metadata.entry_points(group=ENTRY_POINTS))})


def load(name_or_path: str | Path) -> Sequence:
    """The sequence of this name, or in this YAML file. UserError, in one line, if anything is wrong."""
    if isinstance(name_or_path, str) and name_or_path in (files := _built_in()):
        return _parse(files[name_or_path], f"tasks/{name_or_path}.yaml", folder=None)
    if isinstance(name_or_path, str) and (entry := added_by_package(ENTRY_POINTS, name_or_path, "sequence")):
        return _load_file(_path_of(entry))
    # os.path, since pathlib raises on an unknown "~user" and on a name too long to be a file's.
    path = Path(os.path.expanduser(name_or_path))
    looks_like_file = path.suffix in (".yaml", ".yml") or path.name != str(name_or_path)
    if not looks_like_file and not os.path.isfile(path):
        raise near(name_or_path, names(), "sequence", "A path to a YAML file does as well.")
    return _load_file(path)


def prompt_set(name: str) -> dict[str, tuple[str, ...]]:
    """The templates of a prompt set of tasks/prompts/, by kind. UserError if there is none of this name."""
    sets: dict[str, dict[str, tuple[str, ...]]] = {}
    for file in _yaml_files(tasks_folder() / "prompts"):
        shown = f"tasks/prompts/{file.name}"
        given = _keys(read_yaml(file, shown), shown, required=("set", "kind", "prompts"))
        kind = _kind(given["kind"], f"{shown}: kind")
        sets.setdefault(given["set"], {})[kind] = _templates(given["prompts"], f"{shown}: prompts")
    if name not in sets:
        raise near(name, sorted(sets), "prompt set")
    return sets[name]


def content_hash(seq: Sequence) -> str:
    """SHA-256, 64 hex digits, of everything here that moves a score.

    Two sequences with equal hashes differ at most in name, description, and where the photographs lie. The
    pictures themselves are not in it: whoever reads them adds their hashes.
    """
    test = seq.evaluation
    facts = {
        "version": seq.version,
        "concepts": [[c.name, c.class_noun, c.kind, list(c.prompts), list(test.prompts[c.kind])] for c in seq.concepts],
        "pictures_per_prompt": test.pictures_per_prompt,
        "num_inference_steps": test.num_inference_steps,
        "guidance_scale": float(test.guidance_scale),
        "photographs": [float(value) for value in astuple(test.photographs)],
    }
    for more in ("compositions", "prior"):
        if getattr(test, more):
            facts[more] = list(getattr(test, more))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def ordered(seq: Sequence, order: int) -> Sequence:
    """The same sequence in another order: 0 is the file's, k > 0 a permutation drawn from numpy's
    `default_rng(k)`. UserError for a negative order. Of a short sequence several k give the same order.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise UserError(f"order: must be a whole number from 0 on, not {quoted(order)}")
    if order == 0:
        return seq
    import numpy as np  # here, so that `cpbench describe` does not wait for it

    where = np.random.default_rng(order).permutation(len(seq.concepts))
    return replace(seq, concepts=tuple(seq.concepts[i] for i in where))


# Where sequences are found


def tasks_folder() -> Traversable:
    """The folder `tasks/`, which an installed cpbench carries as `cpbench.tasks`."""
    try:
        return resources.files("cpbench.tasks")
    except ModuleNotFoundError:  # a checkout that is not installed
        return Path(__file__).resolve().parents[2] / "tasks"


def _yaml_files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)


def _built_in() -> dict[str, Traversable]:
    return {f.name.removesuffix(".yaml"): f for f in _yaml_files(tasks_folder())}


def added_by_package(group: str, name: str, what: str) -> metadata.EntryPoint | None:
    """What an installed package adds under this name; None if none does. UserError where two do: either may be meant."""
    found = {e.value: e for e in metadata.entry_points(group=group, name=name)}
    if len(found) > 1:
        both = " and ".join(f"{e.value} (package {e.dist.name if e.dist else '?'})" for _, e in sorted(found.items()))
        raise UserError(f"{what} {quoted(name)}: is added twice, by {both}; uninstall one, or name a file")
    return next(iter(found.values()), None)


def _path_of(entry: metadata.EntryPoint) -> Path:
    # Any error of a foreign module is possible here; the user can only leave the package out.
    try:
        return Path(entry.load())
    except Exception as error:
        raise UserError(
            f"sequence {quoted(entry.name)}: the package that adds it ({entry.value}) does not give the path "
            f"of a YAML file: {error}; repair or uninstall it"
        ) from error


def _load_file(path: Path) -> Sequence:
    seq = _parse(path, str(path), folder=path.parent)
    # One name, one version, two contents: the leaderboard could not tell them apart.
    if seq.name in (files := _built_in()):
        built_in = _parse(files[seq.name], f"tasks/{seq.name}.yaml", folder=None)
        if built_in.version == seq.version and content_hash(built_in) != content_hash(seq):
            raise UserError(
                f"{path}: name: {quoted(seq.name)} is a built-in sequence with other content; give yours another name"
            )
    return seq


# From YAML to a sequence. Every `where` is "file: key", the beginning of the error's line.


def _parse(file: Traversable, shown: str, folder: Path | None) -> Sequence:
    """folder: what relative image folders are relative to; None leaves them as they are."""
    given = _keys(
        read_yaml(file, shown),
        shown,
        required=("name", "version", "concepts", "evaluation"),
        optional=("description", "prompts", "images"),
    )
    prompts = _prompts(given.get("prompts", DEFAULT_PROMPTS), f"{shown}: prompts")
    images, drawn = _images(given.get("images", {}), f"{shown}: images", folder)
    if images is not None and "{name}" not in images:
        _bad(f"{shown}: images.folder", "must contain {name}, or all concepts would share one folder")
    concepts: list[Concept] = []
    for n, entry in enumerate(_list(given["concepts"], f"{shown}: concepts"), start=1):
        concept = _concept(entry, f"{shown}: concept {n}", prompts, images, drawn, folder)
        # Case is ignored since names become folders, and not every file system tells cases apart.
        if concept.name.lower() in (c.name.lower() for c in concepts):
            _bad(f"{shown}: concept {n}: name", f"{quoted(concept.name)} occurs twice; give it another")
        concepts.append(concept)
    return Sequence(
        name=_name(given["name"], f"{shown}: name"),
        version=_whole(given["version"], f"{shown}: version"),
        description=_description(given.get("description", ""), f"{shown}: description"),
        concepts=tuple(concepts),
        evaluation=_evaluation(given["evaluation"], f"{shown}: evaluation", concepts, prompts),
    )


def _concept(
    entry: object,
    where: str,
    prompts: dict[str, tuple[str, ...]],
    images: str | None,
    drawn: bool,
    folder: Path | None,
) -> Concept:
    given = _keys(entry, where, required=("name", "class_noun", "kind"), optional=("images",))
    name = _name(given["name"], f"{where}: name")
    where = f"{where} ({name})"
    kind = _kind(given["kind"], f"{where}: kind")
    if kind not in prompts:
        _bad(f"{where}: kind", f"the sequence's prompts have none for {quoted(kind)}; add them under prompts")
    if "images" in given:
        images, drawn = _images(given["images"], f"{where}: images", folder)
    if images is None and not drawn:
        _bad(f"{where}: images", "has neither a folder nor drawn: true; name one of them")
    if images is not None:
        images = images.replace("{name}", name)
        below = folder is not None and Path(images).is_relative_to(os.path.abspath(folder))
        if below and (elsewhere := outside(images, folder)):
            _bad(f"{where}: images.folder", f"is a link, out of this file's folder; if you trust it, name {elsewhere}")
    return Concept(
        name=name,
        class_noun=_text(given["class_noun"], f"{where}: class_noun"),
        kind=kind,
        prompts=prompts[kind],
        images=images,
        drawn=drawn,
    )


def _images(value: object, where: str, folder: Path | None) -> tuple[str | None, bool]:
    """The pattern of the picture folder, or None, and whether the miniature draws the concept."""
    given = _keys(value, where, optional=("drawn", "folder"))
    path = given.get("folder")
    drawn = given.get("drawn", path is None)
    if not isinstance(drawn, bool):
        _bad(f"{where}.drawn", f"must be true or false, not {quoted(drawn)}")
    if path is not None:
        if ".." in re.split(r"[/\\]", _text(path, f"{where}.folder")):
            _bad(f"{where}.folder", f"{quoted(path)} leads out by '..'; name the folder by its absolute path")
        path = os.path.expanduser(path)
        path = path if folder is None else os.path.abspath(folder / path)
    return path, drawn


def outside(path: Path | str, base: Path | str) -> str | None:
    """Where links lead from `path`, if that is not below `base`, which may be a link itself."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(base)) else real


def _prompts(value: object, where: str) -> dict[str, tuple[str, ...]]:
    """Templates by kind: those of the prompt set that is named, or those that are given."""
    if isinstance(value, str):
        try:
            return prompt_set(value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        _bad(where, f"must be the name of a prompt set or templates by kind, not {quoted(value)}")
    return {k: _templates(v, f"{where}.{k}") for k, v in _keys(value, where, optional=KINDS).items()}


def _evaluation(value: object, where: str, concepts: list[Concept], prompts: dict[str, tuple[str, ...]]) -> Evaluation:
    used = {c.kind for c in concepts}
    given = _keys(
        value,
        where,
        required=[k for k in KINDS if k in used],
        optional=(*KINDS, *DRAWING, "photographs", "compositions", "prior"),
    )
    chosen = {k: _templates(given[k], f"{where}.{k}") for k in KINDS if k in given}
    for kind, templates in chosen.items():
        for template in templates:
            if template not in (known := prompts.get(kind, ())):
                cure = f"Take one of the {len(known)} prompts for {kind} concepts, or give your own."
                raise UserError(f"{where}.{kind}: {near(template, known, 'prompt', cure)}")
    settings = _drawing(given, where)
    elsewhere = given.get("photographs", {})
    elsewhere = _drawing(_keys(elsewhere, f"{where}.photographs", optional=DRAWING), f"{where}.photographs")
    both = _templates(given["compositions"], f"{where}.compositions", slots=2) if "compositions" in given else ()
    plain = _templates(given["prior"], f"{where}.prior") if "prior" in given else ()
    return Evaluation(chosen, **settings, photographs=Drawing(**(settings | elsewhere)), compositions=both, prior=plain)


def _drawing(given: dict[str, Any], where: str) -> dict[str, Any]:
    return {key: read(given[key], f"{where}.{key}") for key, read in DRAWING.items() if key in given}


def _bad(where: str, reason: str) -> NoReturn:
    raise UserError(f"{where}: {reason}")


def _keys(value: object, where: str, required: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, Any]:
    """The mapping, with all required keys and no unknown one."""
    known = list(dict.fromkeys((*required, *optional)))
    if not isinstance(value, dict):
        _bad(where, f"must be a mapping with the keys {', '.join(known)}, not {quoted(value)}")
    for key in value:
        if key not in known:
            raise UserError(f"{where}: {near(key, known, 'key')}")
    for key in required:
        if key not in value:
            _bad(where, f"the key {key!r} is missing; add it")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        _bad(where, f"must be a list with at least one entry, not {quoted(value)}")
    return value


def _text(value: object, where: str) -> str:
    # YAML reads `on` as true and `{}` as an empty mapping, hence the hint.
    if not isinstance(value, str):
        _bad(where, f"must be text, not {quoted(value)}; put it in quotes")
    if not value or value != value.strip() or not value.isprintable():
        _bad(where, f"must be one line of text with no space around it, not {quoted(value)}")
    return value


def _name(value: object, where: str) -> str:
    value = _text(value, where)
    if not FILE_NAME.fullmatch(value):
        _bad(where, f"{quoted(value)} cannot name a folder; use up to 100 letters, digits, '_', '-' and '.'")
    return value


def _description(value: object, where: str) -> str:
    if not isinstance(value, str):
        _bad(where, f"must be text, not {quoted(value)}; put it in quotes")
    return " ".join(value.split())


def _kind(value: object, where: str) -> Kind:
    if value not in KINDS:
        _bad(where, f"must be 'live', 'object' or 'style', not {quoted(value)}")
    return value


def _templates(value: object, where: str, slots: int = 1) -> tuple[str, ...]:
    templates = [_text(t, where) for t in _list(value, where)]
    often = "once, for the concept," if slots == 1 else "twice, for two concepts,"
    for n, template in enumerate(templates):
        rest = template.replace(SLOT, "")
        if template.count(SLOT) != slots or "{" in rest or "}" in rest:
            _bad(where, f"{quoted(template)} must contain {SLOT} {often} and no other brace")
        if template in templates[:n]:
            _bad(where, f"{quoted(template)} occurs twice; keep one")
    return tuple(templates)


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _bad(where, f"must be a whole number from 1 on, not {quoted(value)}")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        _bad(where, f"must be a number from 0 on, not {quoted(value)}")
    return float(value)


DRAWING: dict[str, Callable[[object, str], Any]] = {
    "pictures_per_prompt": _whole,
    "num_inference_steps": _whole,
    "guidance_scale": _number,
}


# Reading YAML


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)


def read_yaml(file: Traversable, shown: str) -> Any:
    """What the YAML file says. UserError, in one line, if it cannot be read."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        stem = Path(shown).stem
        hint = f"the built-in sequence is called {stem!r}" if stem in _built_in() else "check the path"
        raise UserError(f"{shown}: there is no such file; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise UserError(
            f"{shown}: cannot be read ({getattr(error, 'strerror', None) or error}); name a YAML file"
        ) from None
    return from_yaml(text, shown)
