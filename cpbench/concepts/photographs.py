"""Photographs: finding a concept's folder, checking its files, and reading them.

A built-in sequence names a relative folder, such as data/dreambooth/dataset/dog. It is looked up in the current folder or,
if `--data` or else CPBENCH_DATA is given, in that folder only. That is a folder that holds the data sets (or `hub`, for
DreamBooth's copy on the hub); for DreamBooth it may also be a clone, or the clone's folder dataset/. The folders of a
user's own sequence are absolute and are used as they are.
"""

from __future__ import annotations

import io
import os
import shlex
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from cpbench.concepts import sequences
from cpbench.concepts.picture_files import EMPTY, FORMATS, PICTURES, UNREAD, content_of, left_out, pictures_of
from cpbench.concepts.sequences import Concept
from cpbench.errors import UserError, did_you_mean

FITS = ("crop", "pad")
# Zero in the range -1 to 1 that models compute in, and near the mean of what CLIP and DINO saw: bars of white or black
# would add a strong edge and look like a colour of the concept; grey adds least.
GREY = (128, 128, 128)
HUB = "google/dreambooth"
DREAMBOOTH = "dreambooth"
# Commands that download a data set into folder {0}, by the name of its folder there.
SOURCES = {
    DREAMBOOTH: "git clone https://github.com/google/dreambooth {0}/dreambooth",
    "CIFC": "git clone https://github.com/JiahuaDong/CIFC {0}/CIFC",
    "customconcept101": (
        "wget -P {0} https://huggingface.co/datasets/nupurkmr9/custom-diffusion/resolve/main/benchmark_dataset.zip && "
        "unzip {0}/benchmark_dataset.zip -d {0} && mv {0}/benchmark_dataset {0}/customconcept101"
    ),
}


def load(concept: Concept, size: int, data: Path | str | None = None, fit: str = "crop") -> np.ndarray:
    """The concept's photographs, uint8 (n, size, size, 3), in order of file name.

    data: the folder of `--data`, or "hub". UserError, in one line, if a picture is missing, cannot be read, or is not
    DreamBooth's although the sequence says so.
    """
    folder = folder_of(concept, data)
    if data_set(concept) == DREAMBOOTH:
        check(folder, concept)
    return read(folder, concept.name, size, fit)


# Finding


def folder_of(concept: Concept, data: Path | str | None = None) -> Path:
    """The folder of the concept's photographs. UserError, with the command that downloads them, if there is none."""
    assert concept.images is not None
    folder = Path(concept.images)
    if folder.is_absolute():
        if not os.path.isdir(folder):  # unlike pathlib's, calm about names too long to be a folder's
            raise UserError(
                f"concept {concept.name}: there is no folder {folder}; put its pictures there, or correct `images` in the sequence"
            )
        return _refuse_links(folder, concept.name)
    root, flag = (data, "--data") if data else (os.environ.get("CPBENCH_DATA"), "CPBENCH_DATA")
    inside, data_set_name, base = folder.parts[1:] or folder.parts, data_set(concept), None
    if not root:
        places = [folder]
    elif str(root) == "hub":
        if data_set_name != DREAMBOOTH:
            raise UserError(
                f"concept {concept.name}: {flag} hub has DreamBooth's photographs only, not {folder}; {_ways(data_set_name, None)}"
            )
        places = [from_hub().joinpath(*inside[1:])]
    else:
        base = Path(os.path.expanduser(root))
        if not os.path.isdir(base):
            raise UserError(
                f"{flag} {root}: there is no such folder; correct the path, or leave it out and {_ways(data_set_name, None)}"
            )
        # The folder may be any root of a DreamBooth copy, since the manifest shows whether it is one. For other data sets
        # the name must be in the path: CIFC also has a folder `dog2`, with another dog.
        places = [base.joinpath(*inside[k:]) for k in range(len(inside) if data_set_name == DREAMBOOTH else 1)]
    for place in places:
        if os.path.isdir(place):
            return _refuse_links(place, concept.name)
    searched = " or ".join(str(place) for place in places)
    raise UserError(f"concept {concept.name}: there are no photographs in {searched}; {_ways(data_set_name, base)}")


def _refuse_links(path: Path, concept: str) -> Path:
    """The path itself. UserError if it is a link out of its folder, which could expose any picture of the user's.

    The hub's cache consists of such links, all into the folder `blobs` next to its `snapshots`.
    """
    elsewhere = sequences.outside(path, path.parent)
    cache = next((p.parent for p in Path(os.path.realpath(path.parent)).parents if p.name == "snapshots"), None)
    if elsewhere and not (cache and Path(elsewhere).parent == cache / "blobs"):
        raise UserError(
            f"concept {concept}: {path} is a link to {elsewhere}, out of its folder; use or copy the folder that it leads to"
        )
    return path


def data_set(concept: Concept) -> str | None:
    """The key in SOURCES of the data set that a built-in sequence's relative folder names; None for any other."""
    parts = Path(concept.images or "").parts
    named = len(parts) > 2 and not os.path.isabs(concept.images or "") and parts[1] in SOURCES
    return parts[1] if named else None


def _ways(data_set_name: str | None, base: Path | None) -> str:
    """Advice to the user: the command that downloads the data set into `base` (the folder of --data) or data/."""
    if data_set_name is None:
        return "put them there, or correct `images` in the sequence"
    command = SOURCES[data_set_name].format(shlex.quote(str(base or "data")))
    if data_set_name == DREAMBOOTH:
        return f"download the photographs with `{command}`, or pass a copy with `--data FOLDER`, or the hub's with `--data hub`"
    return (
        f"download the photographs with `{command}`, or pass the folder that holds {data_set_name} with `--data FOLDER`"
    )


@cache
def from_hub() -> Path:
    """The hub's DreamBooth, downloaded if it is not cached; the hub library respects HF_HUB_OFFLINE."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id=HUB, repo_type="dataset", allow_patterns="dataset/*"))
    except Exception as error:  # offline, a proxy, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"--data hub: {HUB} is not in the hub's cache and cannot be downloaded ({reason}); connect, or run "
            f"`{SOURCES[DREAMBOOTH].format('data')}` elsewhere and pass the copy with `--data FOLDER`"
        ) from None


def guarded(concept: Concept, data: Path | str | None = None) -> list[Path]:
    """The concept's folder, and the files that links in it lead to, as in the hub's cache."""
    folder = folder_of(concept, data)
    return [folder, *(f.resolve() for f in pictures_of(folder, concept.name) if f.is_symlink())]


# Checking


@cache
def manifest() -> dict[str, tuple[str, ...]]:
    """The file names of DreamBooth's subjects, as in its repository."""
    text = (sequences.tasks_folder() / "manifests" / "dreambooth.yaml").read_text(encoding="utf-8")
    return {subject: tuple(files) for subject, files in yaml.safe_load(text)["subjects"].items()}


def check(folder: Path, concept: Concept) -> None:
    """UserError, in one line, if the folder's pictures are not the files of DreamBooth's subject."""
    subject = Path(concept.images or "").name
    if subject not in manifest():
        raise did_you_mean(subject, manifest(), "subject of DreamBooth")
    expected, names = set(manifest()[subject]), {f.name for f in pictures_of(folder, concept.name)}
    wrong = [f"lacks {_listed(expected - names)}"] if expected - names else []
    wrong += [f"also has {_listed(names - expected)}"] if names - expected else []
    if wrong:
        raise UserError(
            f"concept {concept.name}: {folder} is not DreamBooth's {subject} ({len(expected)} pictures): it "
            f"{' and '.join(wrong)}; correct that or clone it again, and use `cpbench new-sequence` for other pictures"
        )


def _listed(names: set[str], most: int = 3) -> str:
    """'a.jpg, b.jpg, c.jpg and 2 more'."""
    first = sorted(names)[:most]
    return ", ".join(first) + (f" and {len(names) - most} more" if len(names) > most else "")


# Reading


def read(folder: Path, concept: str, size: int, fit: str = "crop") -> np.ndarray:
    """Every picture of a folder, in order of name, made square: uint8 (n, size, size, 3)."""
    if fit not in FITS:
        raise did_you_mean(fit, FITS, "fit")
    return np.stack([np.asarray(square(upright(file, concept), size, fit)) for file in files_of(folder, concept)])


def files_of(folder: Path, concept: str) -> list[Path]:
    """The folder's picture files, in order of name. UserError if there is none, or one in a format that is not supported."""
    files = pictures_of(folder, concept)
    for file in files:
        _refuse_links(file, concept)
    if unread := [file for file in files if file.suffix.lower() in UNREAD]:
        names = str(unread[0]) if len(unread) == 1 else f"{_listed({file.name for file in unread})} in {folder}"
        verb, pronoun = ("has", "it") if len(unread) == 1 else ("have", "them")
        raise UserError(
            f"concept {concept}: {names} {verb} a format that is not supported; convert {pronoun} to JPEG or PNG, or remove {pronoun}"
        )
    if not files:
        hint = f"; left out: {parts}" if (parts := left_out(folder, concept)) else ""
        raise UserError(f"concept {concept}: no pictures ({', '.join(FORMATS)}) in {folder}; put 3 to 6 there{hint}")
    return files


def animated(files: Iterable[Path]) -> list[Path]:
    """Those with several frames, of which `upright` reads the first. files: pictures that it has read."""
    animations = []
    for file in files:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("ignore")
            if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                animations.append(file)
    return animations


def upright(file: Path, concept: str) -> Image.Image:
    """The picture as viewers show it: RGB, rotated as its EXIF data say, on grey where it is transparent.

    UserError, in one line, for a file that is broken, far too large, or in another format than its ending says.
    """
    picture = None
    try:
        if not file.is_file():  # for example a pipe, which would be waited for forever
            raise OSError("it is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about broken EXIF data of a good picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                form = image.format
                if form in FORMATS[file.suffix.lower()]:
                    picture = _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"concept {concept}: {file} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to open safely; make it smaller"
        ) from None
    except Exception as error:  # decoders raise errors of nearly every type for broken files
        reason, hint = str(error) or repr(error), "replace or remove it"
        if isinstance(error, UnidentifiedImageError):
            content = content_of(file)
            reason = "it is empty" if content == EMPTY else f"its content is {content or 'not a picture'}"
            if content in FORMATS[file.suffix.lower()]:
                reason = f"its content is damaged {content}"
            elif content in PICTURES:
                hint = "convert it to JPEG or PNG; renaming is not enough"
        raise UserError(f"concept {concept}: {file} cannot be read as a picture ({reason}); {hint}") from None
    if picture is None:
        ending = next((ending for ending, formats in FORMATS.items() if form in formats), None)
        hint = f"rename it to end in {ending}" if ending else "convert it to JPEG or PNG"
        raise UserError(f"concept {concept}: {file} contains {form or content_of(file)}, not {file.suffix}; {hint}")
    return picture


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, which models were trained on; Display P3 (of an iPhone) read as sRGB would look paler."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16 bits of grey, which PIL would cut at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        colours, alpha = _srgb(layer.convert("RGB"), profile), layer.getchannel("A")
        colours.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*GREY, 255)), colours).convert("RGB")
    return _srgb(image.convert("RGB") if image.mode == "P" else image, profile)


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture converted from this colour profile to sRGB, by Little CMS; unchanged if the profile is sRGB or broken."""
    if profile:
        try:
            source = ImageCms.getOpenProfile(io.BytesIO(profile))
            if not ImageCms.getProfileDescription(source).strip().startswith("sRGB"):
                # relative colorimetric, as viewers do it: white stays white
                conversion = {"renderingIntent": ImageCms.Intent.RELATIVE_COLORIMETRIC, "outputMode": "RGB"}
                return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), **conversion)
        except (
            ImageCms.PyCMSError,
            OSError,
            ValueError,
            TypeError,
        ):  # a broken profile, or one for other channels than the picture's
            pass
    return image.convert("RGB")


def square(picture: Image.Image, size: int, fit: str = "crop") -> Image.Image:
    """`size` pixels per side, by Lanczos: "crop" keeps the middle square, "pad" the whole picture, with grey bars."""
    w, h = picture.size
    if fit == "crop":
        side = min(w, h)
        x, y = (w - side) // 2, (h - side) // 2
        cut = picture.crop((x, y, x + side, y + side))
        return cut.resize((size, size), Image.Resampling.LANCZOS)
    # Resized before the bars are added, so that the filter does not blur picture and bars into each other.
    w, h = (max(1, round(size * length / max(w, h))) for length in (w, h))
    whole = Image.new("RGB", (size, size), GREY)
    whole.paste(picture.resize((w, h), Image.Resampling.LANCZOS), ((size - w) // 2, (size - h) // 2))
    return whole
