"""completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cpbench.cli.options import cli

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CPBENCH_COMPLETE"  # in which the shell passes its request


@cli.command(epilog='Example: eval "$(cpbench completion bash)", as a line of ~/.bashrc')
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell. With it, Tab completes commands, options, methods, sequences and runs."""
    script_class = get_completion_class(shell)
    assert script_class is not None  # one of click's own
    script = script_class(cli, {}, "cpbench", VARIABLE)
    # Not its `source()`: that starts a bash to ask for its version.
    click.echo(script.source_template % script.source_vars())
