"""What is said, in one line, of an error that is not a mistake in cpbench, and the exit code that goes with it."""

from __future__ import annotations

import errno

from cpbench.errors import RulesError, UserError
from cpbench.running import memory, stopping

FAILED, USAGE = 1, 2
RESUMES = "the same command resumes after the last complete task"


def line_and_code(error: BaseException) -> tuple[str, int] | None:
    """(line, exit code) of a stop, of bad input, and of what a machine or a method did; None for any other error."""
    if stopping.is_stopped(error):
        return stopping.line_of(error, RESUMES), stopping.exit_code()
    if isinstance(error, UserError):
        return str(error), USAGE
    if isinstance(error, RulesError):
        return f"the method broke the rules: {error}", FAILED
    if line := memory.shortage_line(error):
        return line, FAILED
    if isinstance(error, OSError) and error.errno is not None:  # without a number it is a library's own, and no disk's
        return f"{error.filename or 'a file'}: {error.strerror}; {_disk_advice(error.errno)}", FAILED
    return None


def _disk_advice(number: int) -> str:
    again = f"run the same command again: {RESUMES}"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"make room there and {again}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"make it writable, or name another --output, and {again}"
    return f"see that its disk or network mount is there and {again}"
