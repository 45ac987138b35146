"""`cpbench new-sequence`: checks folders of the user's own pictures, and writes a YAML file of them for editing."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from cpbench.concepts import photographs, prompt_length, sequences
from cpbench.concepts.images import is_blank
from cpbench.concepts.picture_files import left_out
from cpbench.concepts.sequences import Sequence, SubjectType
from cpbench.errors import UserError, quoted

FEW, MANY = 3, 20  # pictures per concept; fewer or more give a warning
SMALL = 256  # pixels: half of Stable Diffusion's side
LIKE = "dreambench10"  # its prompts and its sampling settings for photographs are copied
LONGEST_NAME = 64
# Copies that were saved again, or reduced to half their size, differ in under 2 of 256 bits for 9 of 10 photographs of
# DreamBooth; its two most similar of 158 differ in 8, and those are drawings of one character.
HASH_SIDE, NEARLY = 16, 6
NOUN = re.compile(r"[^\W_][\w '’.-]*")
# Likely words for animals and people; any other noun is taken for an object, and the file says so.
LIVE = (
    "animal baby bear bird boy bull bulldog bunny cat chicken child collie corgi cow dachshund deer dog dolphin donkey "
    "duck elephant ferret fish fox frog gecko girl goat goldfish goose hamster hedgehog hen horse human husky kid kitten "
    "labrador lamb lion lizard man monkey mouse owl panda parakeet parrot penguin person pet pig pigeon pony poodle pug "
    "puppy rabbit rat retriever rooster sheep shepherd snake spaniel squirrel swan terrier tiger tortoise turtle wolf "
    "woman zebra"
)
MADE = "ceramic figurine glass knitted lego plastic plush porcelain rubber statue stuffed toy wooden"  # a rubber duck


@dataclass(frozen=True)
class NewSequence:
    """A sequence file, its content, the number of pictures per concept, and warnings.

    fresh: whether it was just written; False if an equal file existed.
    """

    path: Path
    sequence: Sequence
    counts: dict[str, int]
    warnings: tuple[str, ...]
    fresh: bool


def write(target: Path | str, items: list[str]) -> NewSequence:
    """Check the folders of `items`, each "FOLDER:CLASS NOUN", and write a sequence of them, in their order, to `target`.

    UserError, in one line, and nothing is written, for a folder that is missing, empty or given twice, for a picture that
    cannot be read, and for a target that is not a YAML file or exists with other content.
    """
    target = Path(os.path.abspath(os.path.expanduser(target)))
    name = _name_of(target)
    parsed = [parse(item) for item in items]
    if not parsed:
        raise UserError(f"{target.name}: no concepts; pass at least one folder, such as ~/photos/rex:dog")
    folders = [folder for folder, _ in parsed]
    for k, folder in enumerate(folders):
        if not os.path.isdir(folder):
            raise UserError(f"{quoted(items[k])}: there is no folder {folder}; check the path")
        if any(os.path.samefile(folder, other) for other in folders[:k]):
            raise UserError(f"{quoted(items[k])}: {folder} is given twice; give each concept its own folder")
    names = names_of(parsed)
    folder_texts = [_as_written(folder, target.parent) for folder in folders]
    counts, warnings = look_through(dict(zip(names, folders, strict=True)))
    for _, noun in parsed:
        for template in [t for of_type in sequences.load(LIKE).evaluation.prompts.values() for t in of_type]:
            prompt_length.refuse_cut([prompt_length.usual()], *prompt_length.filled(template, [noun]))
    text = _yaml(
        name,
        [(n, noun, guess_subject_type(noun), s) for n, (_, noun), s in zip(names, parsed, folder_texts, strict=True)],
    )
    fresh = not target.exists()
    if not fresh and not (target.is_file() and target.read_bytes() == text.encode()):
        raise UserError(f"{target}: exists with other content; pass another file, or remove it first")
    if fresh:
        _place(target, text)
    return NewSequence(target, sequences.load(target), counts, tuple(warnings), fresh)


def report_lines(result: NewSequence) -> list[str]:
    """The output of the command line: the file, one line per concept, the warnings, and the next command."""
    concepts = result.sequence.concepts
    widths = [
        max(len(field) for field in column) for column in zip(*((c.name, c.class_noun) for c in concepts), strict=True)
    ]
    lines = [f"{'wrote' if result.fresh else 'unchanged:'} {result.path}"]
    lines += [
        f"  {c.name:{widths[0]}}  {c.class_noun:{widths[1]}}  {c.subject_type:6}  {result.counts[c.name]:3} pictures  {c.images}"
        for c in concepts
    ]
    lines += [f"warning: {warning}" for warning in result.warnings]
    return [
        *lines,
        "check the class nouns and kinds in the file, then run, for example:",
        f"  cpbench run --method isolated --sequence {shlex.quote(str(result.path))} --backbone sd15",
    ]


# Arguments of the command line


def parse(item: str) -> tuple[Path, str]:
    """(folder, class noun) of "FOLDER:CLASS NOUN", split at the last colon. UserError for any other form."""
    folder, _, noun = item.rpartition(":")
    noun = " ".join(noun.split())
    if not folder or not NOUN.fullmatch(noun):
        raise UserError(f"{quoted(item)}: must be FOLDER:CLASS NOUN, such as ~/photos/rex:dog")
    return Path(os.path.abspath(os.path.expanduser(folder))), noun


def names_of(parsed: list[tuple[Path, str]]) -> list[str]:
    """A valid name for each concept, from its folder; no two are equal, even if case is ignored."""
    names: list[str] = []
    for folder, noun in parsed:
        stem = legal_name(folder.name) or legal_name(noun) or "concept"
        name, k = stem, 2
        while name.lower() in (n.lower() for n in names):
            name, k = f"{stem}-{k}", k + 1
        names.append(name)
    return names


def legal_name(text: str) -> str:
    """The text as a concept's name, of letters without accents, digits, "_", "-" and "."; empty if none remain."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-._")[:LONGEST_NAME].rstrip("-._")


def guess_subject_type(noun: str) -> SubjectType:
    """Live if the last word is an animal or a person, and no other word is a material or the like."""
    words = noun.lower().split()
    return "live" if words[-1] in LIVE.split() and not set(words) & set(MADE.split()) else "object"


def _name_of(target: Path) -> str:
    """The sequence's name, from the file's. UserError for a file that cannot be written or has no valid name."""
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"{quoted(target.name)}: the first argument must be the file to write, ending in .yaml, such as my.yaml"
        )
    name = legal_name(target.stem)
    if not name:
        raise UserError(f"{quoted(target.name)}: contains no valid name; use letters and digits")
    if name in sequences.names():
        raise UserError(f"{quoted(target.name)}: {name} is a built-in sequence; give yours another name")
    if not os.path.isdir(target.parent):
        raise UserError(f"{target}: there is no folder {target.parent}; create it first")
    return name


def _as_written(folder: Path, home: Path) -> str:
    """The folder as written in a file in `home`: relative if it is below, so that both can be moved together."""
    if sequences.outside(folder, home if folder.is_relative_to(home) else folder.parent):
        folder = Path(os.path.realpath(folder))  # a sequence may not contain links, so its target is written
    text = folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)
    if text != text.strip() or not text.isprintable() or "{name}" in text:
        raise UserError(f"{quoted(str(folder))}: the folder's name cannot be written in a YAML file; rename it")
    return f"./{text}" if text.startswith("~") else text  # a leading ~ would mean a home folder


# Checking the pictures


def look_through(folders: dict[str, Path]) -> tuple[dict[str, int], list[str]]:
    """(number of pictures by concept, warnings). UserError for an empty folder or an unreadable picture."""
    counts: dict[str, int] = {}
    warnings: list[str] = []
    pictures: list[tuple[str, str, str, int]] = []  # concept, file, content, average hash
    for concept, folder in folders.items():
        files = photographs.files_of(folder, concept)
        counts[concept] = n = len(files)
        if n < FEW:
            warnings.append(f"{concept}: {_pictures(n)}; {FEW} to 6 from several sides would show more of it")
        if n > MANY:
            warnings.append(f"{concept}: {_pictures(n)}; all are used, while published work uses {FEW} to 6")
        if parts := left_out(folder, concept):
            warnings.append(f"{concept}: left out: {parts}")
        small = []
        for file in files:
            picture = photographs.upright(file, concept)
            if is_blank(np.asarray(picture)):
                warnings.append(f"{concept}: {file.name} is of a single colour; replace or remove it")
            if min(picture.size) < SMALL:
                small.append(f"{file.name} ({picture.width} x {picture.height})")
            content, average = content_hash(picture), average_hash(picture)
            for other, name, its_content, its_average in pictures:
                if (average ^ its_average).bit_count() <= NEARLY:  # 0 for the same picture
                    similarity = "the same picture" if content == its_content else "nearly the same picture"
                    warnings.append(f"{concept}: {file.name} is {similarity} as {name} of {other}; keep one")
                    break
            pictures.append((concept, file.name, content, average))
        warnings += [f"{concept}: {f.name} is animated; its first frame is used" for f in photographs.animated(files)]
        if small:
            warnings.append(f"{concept}: smaller than {SMALL} pixels, and blurred when enlarged: {', '.join(small)}")
    return counts, warnings


def _pictures(n: int) -> str:
    return f"{n} picture{'s' if n > 1 else ''}"


def content_hash(picture: Image.Image) -> str:
    """SHA-256 of size and pixels: equal for copies that differ only in metadata."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def average_hash(picture: Image.Image) -> int:
    """256 bits: which cells of a 16 x 16 grey thumbnail are brighter than their mean."""
    cells = picture.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX).tobytes()
    mean = sum(cells) / len(cells)
    return sum(1 << k for k, cell in enumerate(cells) if cell > mean)


# Writing


def _yaml(name: str, concepts: list[tuple[str, str, SubjectType, str]]) -> str:
    """The file's text; concepts: name, class noun, kind, folder."""
    entries = "".join(
        f"  - {_flow({'name': n, 'class_noun': noun, 'kind': kind, 'images': {'folder': folder}})}\n"
        for n, noun, kind, folder in concepts
    )
    test = sequences.load(LIKE).evaluation
    drawing = test.sampling(rendered=False)
    prompts = "".join(
        f"  {kind}:\n" + "".join(f"    - {template}\n" for template in test.prompts[kind])
        for kind in ("live", "object")
    )
    description = ", ".join(f"{n} ({noun})" for n, noun, _, _ in concepts)
    return f"""\
# A sequence of your own concepts. Edit anything; `cpbench describe` with this file's path shows how it is read.
{_line("name", name)}
version: 1 # raise it whenever a change affects scores: anything below except the description
{_line("description", description)}
prompts: dreambench # DreamBench's 25 per kind, or your own: {{live: ["a {{}} in the snow", ...], object: [...]}}
# In the order of learning.
# class_noun: what a stranger would call it, in a word or two. Learning starts from it, and row 0 uses only this noun.
# kind: prompts for live subjects (animals, people) ask for outfits too, those for objects only for places. Check this guess.
# images.folder: relative to this file, or absolute. All its pictures are used, and made square as `--fit` says.
concepts:
{entries}evaluation: # some of the prompts, verbatim; for both kinds, so that you can change a concept's kind above
{prompts}  # As {LIKE} does for photographs, and as is usual for Stable Diffusion. They hold for every backbone, so that scores
  # are comparable; on the miniature 1, 10 and 4.0 are enough (--set evaluation.num_inference_steps=10).
  pictures_per_prompt: {drawing.pictures_per_prompt}
  num_inference_steps: {drawing.num_inference_steps}
  guidance_scale: {drawing.guidance_scale}
"""


def _line(key: str, value: str) -> str:
    """`key: value`, the value in quotes if YAML needs them."""
    return yaml.safe_dump({key: value}, allow_unicode=True, width=math.inf).strip()


def _flow(value: dict) -> str:
    """`{key: value, ...}` in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf).strip()


def _place(target: Path, text: str) -> None:
    """Write the file atomically, and only if it can be read as a sequence."""
    try:
        handle, draft = tempfile.mkstemp(prefix=".", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); pass another folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.chmod(draft, 0o644)
        sequences.load(draft)
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise
