"""Judges that installed packages add, by the entry-point group `cpbench.judges`: see docs/adding-a-judge.md."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from cpbench.concepts.sequences import added_by_package
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.judges.identity import COMPARED, NOT_COUNTED

if TYPE_CHECKING:
    from cpbench.judges.judge import Judge

ENTRY_POINTS = "cpbench.judges"
RESERVED = ("clip", "dino", "inception")  # cpbench's own judges
NEEDED = ("model", "weights_sha256")  # keys of an identity


def names() -> list[str]:
    """The names of the judges that packages add."""
    return sorted({entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)} - {*RESERVED})


def module(name: str) -> Any:
    """The object of an entry point, usually a module, with `load` and SCORES. UserError if it is unknown or broken."""
    entry = None if name in RESERVED else added_by_package(ENTRY_POINTS, name, "judge")
    if entry is None:
        raise did_you_mean(
            name, names(), "judge", "Install the package that adds it; for CLIP and DINO, use --clip and --dino."
        )
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # any error of a foreign package
        problem = f"judge {name}: the package that adds it ({entry.value})"
        raise UserError(f"{problem} cannot be imported: {error}; repair or uninstall it") from error


def load(name: str, device: str) -> Judge:
    """The judge that the module's `load` makes on a device. UserError if that fails or the judge is not valid."""
    try:
        judge = module(name).load(device)
    except UserError:
        raise
    except Exception as error:  # any error of a foreign package
        raise UserError(f"judge {name}: cannot be loaded ({type(error).__name__}: {error})") from error
    if getattr(judge, "name", None) != name or not callable(getattr(judge, "images", None)):
        raise UserError(f"judge {name}: its load returned no judge with that name; see docs/adding-a-judge.md")
    identity = getattr(judge, "identity", None)
    if not isinstance(identity, dict) or not all(isinstance(text, str) for pair in identity.items() for text in pair):
        raise UserError(f"judge {name}: its identity must be a mapping of strings to strings")
    if absent := [key for key in NEEDED if key not in identity]:
        raise UserError(f"judge {name}: its identity lacks {' and '.join(absent)}")
    if unknown := sorted(identity.keys() - {*COMPARED, *NOT_COUNTED}):
        raise UserError(
            f"judge {name}: the key {quoted(unknown[0])} of its identity is not compared by any table; use one of {', '.join(COMPARED)}"
        )
    return judge
