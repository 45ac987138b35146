"""The denoiser's forward compiled by torch, for batches of sizes that are known before.

Weights are inputs of what is compiled: others may be installed without compiling again. Compiled code is kept on disk in
the cache folder of `remembered`, for all runs on this machine.
"""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpbench import remembered
from cpbench.errors import UserError


def obstacle(device: torch.device) -> str:
    """Why nothing can be compiled for this device on this machine; "" if it can."""
    _use_cache_folder()
    from torch._inductor import cpp_builder, exc
    from torch.utils._triton import has_triton

    if device.type not in ("cpu", "cuda"):
        return f"torch does not compile for {device.type} here"
    if device.type == "cuda" and not has_triton():
        return "triton is not installed, or does not know this GPU"
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "there is no C++ compiler"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are not installed"
    return ""


class CompiledForward:
    """A network's forward, compiled for batches of `sizes`; a batch of another size is computed as it is.

    Compiling is done by the first call of each size. seconds: what those calls took. graphs: the number compiled, of
    which `anew` were not in the cache.
    """

    def __init__(self, network: nn.Module, sizes: Collection[int]):
        self.network, self.sizes = network, frozenset(sizes)
        self.seconds, self.graphs, self.anew = 0.0, 0, 0
        self._is_cuda = next(network.parameters()).is_cuda
        _use_cache_folder()
        self._eager = network.forward
        # on a GPU also CUDA graphs: a launch of all kernels at once
        self._compiled = torch.compile(
            self._eager, dynamic=False, mode="reduce-overhead" if self._is_cuda else "default"
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """A context in which the network computes so."""
        self.network.forward = self._forward
        try:
            yield
        finally:
            del self.network.forward  # the instance's; the class's is below it

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        latents = args[0] if args else kwargs["hidden_states"]
        if len(latents) not in self.sizes:
            return self._eager(*args, **kwargs)
        from torch._dynamo.exc import TorchDynamoException
        from torch._dynamo.utils import counters

        graphs, misses = counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_miss"]
        start = time.perf_counter()
        try:
            if self._is_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            output = self._compiled(*args, **kwargs)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            folder = os.environ.get(
                "TORCHINDUCTOR_CACHE_DIR", "torch's cache"
            )  # a killed compiler leaves cut files there
            raise UserError(
                f"compile: torch cannot compile the denoiser ({reason}); delete {folder} if a file in it is damaged, or pass "
                "--compile off"
            ) from error
        if compiled := counters["stats"]["unique_graphs"] - graphs:
            self.seconds += time.perf_counter() - start
            self.graphs += compiled
            self.anew += counters["inductor"]["fxgraph_cache_miss"] - misses
        # the next call writes over a CUDA graph's outputs
        return tuple(x.clone() for x in output) if self._is_cuda and isinstance(output, tuple) else output


def _use_cache_folder() -> None:
    """Let torch keep compiled code in the cache folder, unless its own variable names another folder than its default,
    which torch sets by itself."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    is_chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR") not in (None, os.path.abspath(default_cache_dir()))
    if not is_chosen and (folder := remembered.folder()) is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.absolute() / "compiled")
