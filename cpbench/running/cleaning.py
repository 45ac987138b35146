"""`cpbench clean`: what the cache of pictures holds that no run names any more, and what killed processes left behind."""

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
    """Files below an output folder. kept: pictures of the cache that a run names; unnamed: the others; temporary: half written."""

    kept: list[Path]
    unnamed: list[Path]
    temporary: list[Path]


def leftovers(output: Path) -> Leftovers:
    """What is there. UserError where there is no such folder, or a run in it is at work: its row may not name them yet."""
    if not output.is_dir():
        raise UserError(f"output folder {output}: there is none; name one with --output")
    for lock in sorted(output.glob(f"**/{LOCK}")):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            raise UserError(
                f"output folder {output}: the run in {lock.parent} is at work; clean when it is done"
            ) from None
    named = {digest for row in sorted(output.glob(f"**/{ROW}")) for digest in recorded_pictures(row.parent).values()}
    cached = sorted(picture_cache(output).glob("*/*.png"))
    kept = [file for file in cached if not file.name.startswith(".") and file.stem.partition("-")[2] in named]
    temporary = sorted(file for file in output.glob("**/.*.tmp") if file.is_file())
    return Leftovers(kept, [file for file in cached if file not in set(kept) | set(temporary)], temporary)


def clean(output: Path, dry_run: bool = False) -> list[str]:
    """Remove what no run names and what is half written, unless only looking; says in lines what was there."""
    files, verb = leftovers(output), "would be removed" if dry_run else "removed"
    sizes = {
        group: sum(file.stat().st_size for file in getattr(files, group)) for group in ("kept", "unnamed", "temporary")
    }
    for file in () if dry_run else (*files.unnamed, *files.temporary):
        file.unlink(missing_ok=True)
    for folder in () if dry_run else sorted({file.parent for file in files.unnamed}):
        if not any(folder.iterdir()):
            folder.rmdir()
    if not dry_run:
        sync_folder(output)
    return [
        f"{_counted(files.kept, sizes['kept'], 'kept picture')} that runs below {output} name: stay",
        f"{_counted(files.unnamed, sizes['unnamed'], 'kept picture')} that no run names: {verb}",
        f"{_counted(files.temporary, sizes['temporary'], 'temporary file')} of processes that were stopped: {verb}",
    ]


def _counted(files: list[Path], size: int, noun: str) -> str:
    return f"{len(files):,} {noun}{'' if len(files) == 1 else 's'} ({size / 1e6:.1f} MB)"
