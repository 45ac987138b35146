"""What the shell may complete: names of methods, sequences and backbones, and run folders. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

FOLDERS = (Path("results/runs"), Path("results/reference"))
RUN = "*/*/*/*/*/run.json"  # below one of them, see `records.folder`
MOST = 200  # candidates; a shell asks before it shows more


def methods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from cpbench.registry import method_names

    return _names(method_names(), incomplete)


def sequences(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from cpbench.concepts.sequences import names

    return _names(names(), incomplete)


def backbones(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from cpbench.backbones.options import BACKBONES

    return _names(list(BACKBONES), incomplete)


def described(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Everything that `cpbench describe` describes."""
    return [item for names in (methods, sequences, backbones) for item in names(context, parameter, incomplete)]


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run folders below the usual folders; for any other path the shell completes folders."""
    folders = sorted(str(file.parent) for folder in FOLDERS for file in folder.glob(RUN))
    matching = [CompletionItem(folder) for folder in folders if folder.startswith(incomplete)]
    return matching[:MOST] or [CompletionItem(incomplete, type="dir")]


def _names(names: list[str], incomplete: str) -> list[CompletionItem]:
    """Names that begin like it; the shell completes paths where there is none, since most names may be a file's."""
    matching = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return matching or [CompletionItem(incomplete, type="file")]
