"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import errno
import os
import sys

import click

from cpbench.cli import build, export, info, results, run
from cpbench.cli.options import cli
from cpbench.errors import RulesError, UserError
from cpbench.running import memory, stopping

VERBS = (build, export, info, results, run)  # each adds its own to `cli` when it is imported
USAGE, FAILED = 2, 1
RESUMES = "the same command resumes after the last complete task"


def main() -> None:
    """Entry point: one clear line and exit code 2 for bad input, 1 for a failure, 130, 143 or 129 when stopped by a signal."""
    with stopping.signals_raise():
        try:
            _run_command()
        except Exception as error:
            if not stopping.is_stopped(error):
                raise
            # a library turned the signal's exception into its own, or failed since it was raised in the middle of an import
            _leave(f"cpbench: {stopping.line_of(error, RESUMES)}", stopping.exit_code())


def _run_command() -> None:
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
    except (KeyboardInterrupt, click.Abort) as error:  # click turns the first into the second
        stop = error.__cause__ or error.__context__ or error
        _leave(f"cpbench: {stopping.line_of(stop, RESUMES)}", stopping.exit_code())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        if error.errno is None:  # a library's own, which is no disk's
            raise
        _leave(f"cpbench: {error.filename or 'a file'}: {error.strerror}; {_disk_advice(error.errno)}", FAILED)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RulesError):
            _leave(f"cpbench: the method broke the rules: {error}", FAILED)
        if line := memory.shortage_line(error):
            _leave(f"cpbench: {line}", FAILED)
        raise


def _disk_advice(number: int) -> str:
    again = f"run the same command again: {RESUMES}"
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
