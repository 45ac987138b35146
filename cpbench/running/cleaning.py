"""`cpbench clean`: cached pictures that no run uses any more, and temporary files of killed processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cpbench.errors import UserError
from cpbench.files import sync_folder
from cpbench.records.folder import LOCK, ROW, picture_cache
from cpbench.records.measures_table import recorded_pictures


@dataclass(frozen=True)
class Leftovers:
    """Files below an output folder: cached pictures that a run uses, cached pictures that none uses, half-written files."""

    used_pictures: list[Path]
    unused_pictures: list[Path]
    temporary_files: list[Path]


def leftovers(output: Path) -> Leftovers:
    """The leftovers below `output`.

    UserError if the folder does not exist, or a run in it is at work, whose record may not list its pictures yet.
    """
    if not output.is_dir():
        raise UserError(f"output folder {output} does not exist; pass another with --output")
    for lock in sorted(output.glob(f"**/{LOCK}")):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            raise UserError(
                f"output folder {output}: the run in {lock.parent} is still running; clean when it is done"
            ) from None
    used_hashes = {
        digest for row in sorted(output.glob(f"**/{ROW}")) for digest in recorded_pictures(row.parent).values()
    }
    cached = sorted(picture_cache(output).glob("*/*.png"))
    used = [file for file in cached if not file.name.startswith(".") and file.stem.partition("-")[2] in used_hashes]
    temporary = sorted(file for file in output.glob("**/.*.tmp") if file.is_file())
    return Leftovers(used, [file for file in cached if file not in set(used) | set(temporary)], temporary)


def clean(output: Path, dry_run: bool = False) -> list[str]:
    """Remove unused and half-written files (with dry_run, nothing). Returns one line per group of files."""
    files, verb = leftovers(output), "would be removed" if dry_run else "removed"
    sizes = {
        group: sum(file.stat().st_size for file in getattr(files, group))
        for group in ("used_pictures", "unused_pictures", "temporary_files")
    }
    for file in () if dry_run else (*files.unused_pictures, *files.temporary_files):
        file.unlink(missing_ok=True)
    for folder in () if dry_run else sorted({file.parent for file in files.unused_pictures}):
        if not any(folder.iterdir()):
            folder.rmdir()
    if not dry_run:
        sync_folder(output)
    return [
        f"{_counted(files.used_pictures, sizes['used_pictures'], 'cached picture')} used by runs below {output}: stay",
        f"{_counted(files.unused_pictures, sizes['unused_pictures'], 'cached picture')} used by no run: {verb}",
        f"{_counted(files.temporary_files, sizes['temporary_files'], 'temporary file')} of stopped processes: {verb}",
    ]


def _counted(files: list[Path], size: int, noun: str) -> str:
    return f"{len(files):,} {noun}{'' if len(files) == 1 else 's'} ({size / 1e6:.1f} MB)"
