"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys

import click

from cpbench.cli import build, completion, export, info, results, run
from cpbench.cli.hints import unknown_option
from cpbench.cli.options import cli
from cpbench.running import failures, stopping

VERBS = (build, completion, export, info, results, run)  # each adds its own to `cli` when it is imported


def main() -> None:
    """Entry point: one clear line and exit code 2 for bad input, 1 for a failure, 130, 143 or 129 when stopped by a signal."""
    _quiet_libraries()
    with stopping.signals_raise():
        try:
            cli(sys.argv[1:] or ["--help"], standalone_mode=False, complete_var=completion.VARIABLE)
        except click.NoSuchOption as error:
            _leave(
                f"cpbench: {unknown_option(error, sys.argv[1:])} (see `{_command(error)} --help`)",
                failures.USAGE,
            )
        except click.UsageError as error:
            _leave(f"cpbench: {_line(error)} (see `{_command(error)} --help`)", failures.USAGE)
        except click.ClickException as error:
            _leave(f"cpbench: {_line(error)}", failures.USAGE)
        except click.Abort as error:  # click's own for a KeyboardInterrupt, or the end of the input
            stop = error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else error
            _leave(f"cpbench: {stopping.line_of(stop, failures.RESUMES)}", stopping.exit_code())
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(failures.FAILED)
        except (Exception, KeyboardInterrupt) as error:
            answer = failures.line_and_code(error)
            if answer is None:
                raise
            _leave(f"cpbench: {answer[0]}", answer[1])


def _quiet_libraries() -> None:
    """Where torchao is installed, hide what it says when it is imported, and diffusers about it: which compiled parts it lacks."""
    if importlib.util.find_spec("torchao") is None:
        return
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


def _command(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "cpbench"


def _line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())  # click puts choices on lines of their own


def _leave(line: str, code: int) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        click.echo(line, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
