"""Sequences of concepts: YAML files in `tasks/`, or any other YAML file.

    name: my-things
    version: 1                           # raised whenever a change affects scores
    description: my dog and my cup       # optional
    prompts: dreambench                  # a set of tasks/prompts/ (the default), or {kind: [templates]}
    images: {folder: "photos/{name}"}    # or {drawn: true}, or both; a concept may have its own
    concepts:
      - {name: rex, class_noun: dog, kind: live}
      - {name: cup, class_noun: cup, kind: object}
    evaluation:                          # for each kind that occurs: some of its prompts, verbatim
      live: ["a {} in the snow", "a {} wearing a red hat"]
      object: ["a {} in the snow", "a wet {}"]
      pictures_per_prompt: 2             # this and the following are optional
      num_inference_steps: 10
      guidance_scale: 4.0
      photographs: {num_inference_steps: 50}   # other values for photographed concepts

A kind (subject type) is live, object or style, and decides which prompts suit the concept: a dog wears a hat, a style
paints a dog. In a template `{}` stands for the words for the concept, such as "<v3> dog". A `drawn` concept has a
stand-in of the same name in the miniature's world; that is the default without a folder. A relative folder is relative
to the user's YAML file, or, in a built-in sequence, to the current folder. Whether it exists is checked where pictures
are read: this module reads only YAML, and imports almost nothing.

The file is untrusted: its size, aliases and numbers are limited, `..` is refused, and a folder below the file must not
be a link that leads elsewhere. schema.py checks single values; this module checks what depends on several.
"""

import hashlib
import json
import os
from dataclasses import astuple, dataclass, replace
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from cpbench.concepts import schema
from cpbench.concepts.schema import SUBJECT_TYPES, SubjectType
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.validation import validated
from cpbench.yaml_files import read_yaml

ENTRY_POINTS = "cpbench.sequences"  # each gives the path of a YAML file


@dataclass(frozen=True)
class Concept:
    """One thing to learn.

    name: the subject's; class_noun: the word for its class; subject_type: which prompts suit it (`kind` in YAML); prompts:
    all templates of its type, `{}` for the words for the concept; images: the folder of its photographs, None without
    any; rendered: whether the miniature's world has a stand-in of this name (`drawn` in YAML).
    """

    name: str
    class_noun: str
    subject_type: SubjectType
    prompts: tuple[str, ...]
    images: str | None = None
    rendered: bool = True


@dataclass(frozen=True)
class SamplingSettings:
    """How the pictures of a cell are generated; the defaults are usual for backbones trained on photographs."""

    pictures_per_prompt: int = 4
    num_inference_steps: int = 50
    guidance_scale: float = 7.5


@dataclass(frozen=True)
class Evaluation:
    """What is generated for every cell of the retention matrix: templates by subject type, pictures per prompt, sampler."""

    prompts: dict[str, tuple[str, ...]]
    pictures_per_prompt: int = 2
    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    photographs: SamplingSettings = SamplingSettings()
    multi_concept_prompts: tuple[str, ...] = ()  # templates with two slots (`compositions` in YAML)
    class_noun_prompts: tuple[str, ...] = ()  # templates for plain class nouns, after every task (`prior` in YAML)

    def sampling(self, rendered: bool) -> SamplingSettings:
        """The values for concepts that the miniature's world renders, or for photographs."""
        if not rendered:
            return self.photographs
        return SamplingSettings(self.pictures_per_prompt, self.num_inference_steps, self.guidance_scale)


@dataclass(frozen=True)
class Sequence:
    """An ordered list of concepts and how they are tested; task t learns concepts[t - 1]."""

    name: str
    version: int
    description: str
    concepts: tuple[Concept, ...]
    evaluation: Evaluation


# What callers use


def built_in_names() -> list[str]:
    """The names of cpbench's own sequences, sorted."""
    return sorted(_built_in())


def names() -> list[str]:
    """The names of the built-in sequences, and of those that installed packages add, sorted."""
    return sorted({*_built_in(), *(e.name for e in metadata.entry_points(group=ENTRY_POINTS))})


def descriptions() -> dict[str, str]:
    """By name the descriptions of all sequences; of one that cannot be read, such as a broken package's, the reason."""
    texts = {}
    for name in names():
        try:
            texts[name] = load(name).description
        except UserError as error:
            texts[name] = f"(cannot be used: {error})"
    return texts


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
        raise did_you_mean(name_or_path, names(), "sequence", "You can also pass the path of a YAML file.")
    return _load_file(path)


def prompt_set(name: str) -> dict[str, tuple[str, ...]]:
    """The templates of a prompt set in tasks/prompts/, by subject type. UserError for an unknown name."""
    sets: dict[str, dict[str, tuple[str, ...]]] = {}
    for file in _yaml_files(tasks_folder() / "prompts"):
        label = f"tasks/prompts/{file.name}"
        entry = validated(schema.PromptSetFile, read_yaml(file, label), label)
        sets.setdefault(entry.set, {})[entry.kind] = tuple(entry.prompts)
    if name not in sets:
        raise did_you_mean(name, sorted(sets), "prompt set")
    return sets[name]


def content_hash(seq: Sequence) -> str:
    """SHA-256, 64 hex digits, of everything here that affects scores.

    Two sequences with equal hashes differ at most in name, description and folders of photographs. The pictures are not
    part of it: the code that reads them adds their hashes.
    """
    test = seq.evaluation
    facts = {
        "version": seq.version,
        "concepts": [
            [c.name, c.class_noun, c.subject_type, list(c.prompts), list(test.prompts[c.subject_type])]
            for c in seq.concepts
        ],
        "pictures_per_prompt": test.pictures_per_prompt,
        "num_inference_steps": test.num_inference_steps,
        "guidance_scale": float(test.guidance_scale),
        "photographs": [float(value) for value in astuple(test.photographs)],
    }
    for key, templates in (("compositions", test.multi_concept_prompts), ("prior", test.class_noun_prompts)):
        if templates:
            facts[key] = list(templates)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def ordered(seq: Sequence, order: int) -> Sequence:
    """The same sequence in another order: 0 is the file's, k > 0 a permutation by numpy's
    `default_rng(k)`. UserError for a negative order. For a short sequence several k give the same order.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise UserError(f"order: must be a whole number from 0 on, not {quoted(order)}")
    if order == 0:
        return seq
    import numpy as np  # here, so that `cpbench describe` does not wait for it

    permutation = np.random.default_rng(order).permutation(len(seq.concepts))
    return replace(seq, concepts=tuple(seq.concepts[i] for i in permutation))


# Where sequences are found


def tasks_folder() -> Traversable:
    """The folder `tasks/`, which is `cpbench.tasks` in an installed cpbench."""
    try:
        return resources.files("cpbench.tasks")
    except ModuleNotFoundError:  # a checkout that is not installed
        return Path(__file__).resolve().parents[2] / "tasks"


def _yaml_files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)


def _built_in() -> dict[str, Traversable]:
    return {f.name.removesuffix(".yaml"): f for f in _yaml_files(tasks_folder())}


def added_by_package(group: str, name: str, noun: str) -> metadata.EntryPoint | None:
    """The entry point with this name; None if no package adds one. UserError if two packages do, which is ambiguous."""
    entries = {e.value: e for e in metadata.entry_points(group=group, name=name)}
    if len(entries) > 1:
        both = " and ".join(f"{e.value} (package {e.dist.name if e.dist else '?'})" for _, e in sorted(entries.items()))
        raise UserError(f"{noun} {quoted(name)}: is added twice, by {both}; uninstall one of them, or pass a file")
    return next(iter(entries.values()), None)


def _path_of(entry: metadata.EntryPoint) -> Path:
    # A package's module may raise any error.
    try:
        return Path(entry.load())
    except (Exception, SystemExit) as error:
        raise UserError(
            f"sequence {quoted(entry.name)}: the package that adds it ({entry.value}) does not give the path "
            f"of a YAML file: {error}; repair or uninstall it"
        ) from error


def _load_file(path: Path) -> Sequence:
    seq = _parse(path, str(path), folder=path.parent)
    # The leaderboard could not distinguish two sequences with the same name and version.
    if seq.name in (files := _built_in()):
        built_in = _parse(files[seq.name], f"tasks/{seq.name}.yaml", folder=None)
        if built_in.version == seq.version and content_hash(built_in) != content_hash(seq):
            raise UserError(
                f"{path}: name: {quoted(seq.name)} is a built-in sequence with other content; give yours another name"
            )
    return seq


# From YAML to a sequence. Each `place` is "file: key", the beginning of an error's line.


def _parse(file: Traversable, label: str, folder: Path | None) -> Sequence:
    """folder: the base of relative image folders; None leaves them as they are."""
    called = Path(label).stem
    hint = f"the built-in sequence is called {called!r}" if called in _built_in() else "check the path"
    content = validated(schema.SequenceFile, read_yaml(file, label, hint), label)
    prompts = _prompts(content.prompts, f"{label}: prompts")
    if content.images.folder is not None and "{name}" not in content.images.folder:
        raise UserError(f"{label}: images.folder: must contain {{name}}, or all concepts would share one folder")
    concepts: list[Concept] = []
    for n, entry in enumerate(content.concepts, start=1):
        place = f"{label}: concept {n} ({entry.name})"
        # Case is ignored: names become folders, and some file systems are case-insensitive.
        if entry.name.lower() in (c.name.lower() for c in concepts):
            raise UserError(f"{place}: name: {quoted(entry.name)} occurs twice; give it another")
        if entry.kind not in prompts:
            reason = f"the sequence's prompts have none for {quoted(entry.kind)}; add them under prompts"
            raise UserError(f"{place}: kind: {reason}")
        images = entry.images or content.images
        at, rendered = _pictures(images, entry.name, f"{place}: images", folder)
        concepts.append(Concept(entry.name, entry.class_noun, entry.kind, prompts[entry.kind], at, rendered))
    test = _evaluation(content.evaluation, f"{label}: evaluation", {c.subject_type for c in concepts}, prompts)
    return Sequence(content.name, content.version, " ".join(content.description.split()), tuple(concepts), test)


def _prompts(entry: Any, place: str) -> dict[str, tuple[str, ...]]:
    """Templates by subject type: those of a prompt set, given by name, or those in the file."""
    if not isinstance(entry, str):
        return _by_kind(validated(schema.Prompts, entry, place))
    try:
        return prompt_set(entry)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _by_kind(entry: schema.Prompts) -> dict[str, tuple[str, ...]]:
    return {
        subject_type: tuple(templates) for subject_type in SUBJECT_TYPES if (templates := getattr(entry, subject_type))
    }


def _pictures(entry: schema.Images, name: str, place: str, base: Path | None) -> tuple[str | None, bool]:
    """The folder of a concept's photographs, or None, and whether the miniature's world renders the concept."""
    rendered = entry.folder is None if entry.drawn is None else entry.drawn
    if entry.folder is None:
        if not rendered:
            raise UserError(f"{place}: has neither a folder nor drawn: true; add one of them")
        return None, rendered
    path = os.path.expanduser(entry.folder).replace("{name}", name)
    if base is not None:
        path = os.path.abspath(base / path)
        if Path(path).is_relative_to(os.path.abspath(base)) and (elsewhere := outside(path, base)):
            reason = f"is a link out of this file's folder; if you trust it, write {elsewhere}"
            raise UserError(f"{place}.folder: {reason}")
    return path, rendered


def outside(path: Path | str, base: Path | str) -> str | None:
    """Where `path` leads if links take it out of `base` (which may be a link itself); else None."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(base)) else real


def _evaluation(
    entry: schema.EvaluationEntry, place: str, subject_types: set[str], prompts: dict[str, tuple[str, ...]]
) -> Evaluation:
    templates = _by_kind(entry)
    for subject_type in SUBJECT_TYPES:
        if subject_type in subject_types and subject_type not in templates:
            raise UserError(f"{place}: the key {subject_type!r} is missing; add it")
        for template in templates.get(subject_type, ()):
            if template not in (choices := prompts.get(subject_type, ())):
                hint = f"Take one of the {len(choices)} prompts for {subject_type} concepts, or give your own."
                raise UserError(f"{place}.{subject_type}: {did_you_mean(template, choices, 'prompt', hint)}")
    shared = entry.model_dump(include=set(schema.SamplingEntry.model_fields), exclude_unset=True)
    photographs = SamplingSettings(**(shared | entry.photographs.model_dump(exclude_unset=True)))
    multi_concept, class_noun = tuple(entry.compositions), tuple(entry.prior)
    return Evaluation(
        templates, **shared, photographs=photographs, multi_concept_prompts=multi_concept, class_noun_prompts=class_noun
    )
