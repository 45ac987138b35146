"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import errno
import os
import sys

import click

from cpbench.cli import build, export, info, results, run
from cpbench.cli.options import cli
from cpbench.errors import UserError

VERBS = (build, export, info, results, run)  # each adds its own to `cli` when it is imported
USAGE, FAILED, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Entry point: one clear line and exit code 2 for bad input, 130 when interrupted."""
    try:
        cli(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UserError as error:
        _leave(f"cpbench: {error}", USAGE)
    except click.UsageError as error:
        _leave(
            f"cpbench: {error.format_message()} (see `{error.ctx.command_path if error.ctx else 'cpbench'} --help`)",
            USAGE,
        )
    except click.ClickException as error:
        _leave(f"cpbench: {error.format_message()}", USAGE)
    except (KeyboardInterrupt, click.Abort):
        _leave("cpbench: interrupted; the same command goes on from the last whole task", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        if error.errno is None:  # a library's own, which is no disk's
            raise
        _leave(f"cpbench: {error.filename or 'a file'}: {error.strerror}; {_disk_advice(error.errno)}", FAILED)
    except RuntimeError as error:
        if "RulesError" not in (c.__name__ for c in type(error).__mro__):  # by name: audit is not imported yet
            raise
        _leave(f"cpbench: the method broke the rules: {error}", FAILED)


def _disk_advice(number: int) -> str:
    again = "run the same command again: it goes on from the last whole task"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"make room there and {again}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"make it writable, or name another --output, and {again}"
    return f"see that its disk or network mount is there and {again}"


def _leave(line: str, code: int) -> None:
    click.echo(line, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
