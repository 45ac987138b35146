"""Freed blocks are used again: in a process of its own, since malloc's settings last as long as a process."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
    sys.exit(77)
from cpbench.backbones.cpu_memory import keep_freed_blocks
if sys.argv[1] == "kept":
    keep_freed_blocks()
    keep_freed_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 40 * 2**20  # above the largest threshold that malloc chooses by itself
def use():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is set on Linux only")
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    assert page_faults("kept") < 100
