"""Which files of a folder are its pictures, what a file contains, and which files are left out.

Only endings decide what is read. Files that look as if they should have been read, but are not, are listed in one line.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cpbench.errors import UserError, quoted

# Formats that files with each ending may have. MPO is a JPEG with a second picture after the first, as many cameras
# write them, and 42 of DreamBooth's 158 are.
FORMATS = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".webp": ("WEBP",)}
# Refused, since they are likely to be the concept's own pictures.
UNREAD = (".avif", ".bmp", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jxl", ".raw", ".tif", ".tiff")
# Left out, with a note: they often lie beside a JPEG of the same picture.
RAW = (".3fr", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
LEFT_OUT = (
    *(".apng", ".dds", ".exr", ".hdr", ".ico", ".icns", ".j2k", ".jp2", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".pnm"),
    *(".ppm", ".psd", ".qoi", ".svg", ".tga", ".xcf"),
    *RAW,
)
CAPTIONS = (".caption", ".json", ".txt")  # of trainers that read a caption beside every picture
KOHYA = re.compile(r"(\d+)_(.+)")  # kohya's folders: repeats, "_", then the prompt
MOST_WALKED = 10_000  # files below a folder that are looked at
MOST_NAMED = 3
EMPTY = "nothing"
HEAD = 512  # bytes, enough for every signature below

SIGNATURES = {  # beginnings of files
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
    "HEIC, as iPhones save pictures": rb"....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a video": rb"....ftyp|\x1a\x45\xdf\xa3",
    "a web page": rb"\s*<(?:!doctype html|html|head)",
    "a pointer of Git LFS; run `git lfs pull`": rb"version https://git-lfs\.github\.com/",
    "a PDF": rb"%PDF-",
    "a zip archive": rb"PK\x03\x04",
}
PICTURES = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "HEIC, as iPhones save pictures",
    "AVIF",
    "JPEG XL",
    "JPEG 2000",
)


def content_of(file: Path) -> str | None:
    """What a file contains, by its first bytes: a key of SIGNATURES, EMPTY, or None if unknown."""
    try:
        if not file.is_file():  # for example a pipe, which would be waited for forever
            return None
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError:
        return None
    if not head:
        return EMPTY
    flags = re.DOTALL | re.IGNORECASE
    return next((name for name, pattern in SIGNATURES.items() if re.match(pattern, head, flags)), None)


def entries_of(folder: Path, concept: str) -> list[Path]:
    """The folder's files and subfolders, in order of name, without hidden ones, which macOS adds. UserError if it cannot be read."""
    try:
        return sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except OSError as error:
        raise UserError(f"concept {concept}: {folder} cannot be read ({error.strerror}); check the folder") from None


def pictures_of(folder: Path, concept: str) -> list[Path]:
    """Files with a picture's ending, of formats that are read or refused, in order of name."""
    return [f for f in entries_of(folder, concept) if _ending(f) in (*FORMATS, *UNREAD)]


def left_out(folder: Path, concept: str) -> str:
    """Which files of a folder are not used although they look like part of the concept, and what to do: "" if there are none."""
    entries = entries_of(folder, concept)
    pictures = [f for f in entries if _ending(f) in FORMATS]
    stems, files = {f.stem for f in pictures}, [f for f in entries if f not in pictures and not f.is_dir()]
    parts = [_subfolder(f) for f in entries if f.is_dir()]
    if other := [f for f in files if _ending(f) in LEFT_OUT]:
        parts.append(f"{_count(other)} whose ending is not read: {_named(other)} (convert to JPEG or PNG to use them)")
    if without := [f for f in files if not f.suffix and content_of(f) in PICTURES]:
        parts.append(
            f"{_count(without)} without an ending: {_named(without)} (add the ending of the format, such as .jpg)"
        )
    if captions := [f for f in files if _ending(f) in CAPTIONS and f.stem in stems]:
        parts.append(
            f"{_count(captions)} of captions: {_named(captions)} (prompts are made of the sequence's class noun instead)"
        )
    return "; ".join(filter(None, parts))


def _subfolder(folder: Path) -> str:
    """The part of the line about a subfolder; "" if it holds no pictures."""
    walked = (name for _, _, names in os.walk(folder) for name in names if not name.startswith("."))
    endings = (*FORMATS, *UNREAD, *LEFT_OUT)
    n = sum(os.path.splitext(name)[1].lower() in endings for name in itertools.islice(walked, MOST_WALKED))
    if not n:
        return ""
    hint = "subfolders are not read: name this one as the concept's folder, or move its pictures up"
    if kohya := KOHYA.fullmatch(folder.name):
        hint = (
            f"kohya's layout, {kohya[1]} repeats of {quoted(kohya[2])}: name this subfolder as the concept's folder; "
            "the number and the words are not used"
        )
    return f"{n} file{'s' * (n > 1)} in {quoted(folder.name)} ({hint})"


def _ending(file: Path) -> str:
    return file.suffix.lower()


def _count(files: list[Path]) -> str:
    return f"{len(files)} file{'s' * (len(files) > 1)}"


def _named(files: Iterable[Path]) -> str:
    """'a.jpg', 'b.jpg', 'c.jpg' and 2 more."""
    names = [quoted(f.name) for f in files]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED))
