"""A GPU that computes nothing: counts the kernels that a program would launch on CUDA, on a machine without a GPU.

    import fake_gpu          # before torch is imported
    fake_gpu.register()      # before torch is imported
    with fake_gpu.FakeGpu() as gpu: ...
    gpu.kernels              # a Counter of the operations, by name

Tensors on "cuda" are torch's fake tensors (shape, type and device without data) and tensors on the CPU are real, so that
tokenizers, random generators and Python's control flow work as usual. Autocast uses CUDA's own lists of operations.
A kernel is every dispatched operation that reads or writes memory of the GPU: views and allocations are none, a copy to
another precision or device is one, scaled-dot-product attention is one, and so is an operation on a list of tensors
(foreach, fused). What is copied to the CPU holds ones.

A CPU build of torch needs a CUDA device for autograd's threads: `register` compiles one of thirty lines of C++, which
torch must find when it is imported.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import torch

DEVICE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct FakeGuard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return getDevice(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device device) const noexcept override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const noexcept override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
static FakeGuard guard;
static impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, &guard);
namespace at {
struct CUDAHooks final : CUDAHooksInterface {  // torch looks for hooks of this name
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}
"""
# allocations and other operations without a kernel that torch does not mark as views
NO_KERNEL = {
    "aten::_unsafe_view", "aten::detach", "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
    "aten::new_empty_strided", "aten::resize_", "aten::set_",
}  # fmt: skip


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def register() -> None:
    """Give a CPU build of torch a CUDA device. RuntimeError without a C++ compiler, or if torch is imported already."""
    if "torch" in sys.modules:
        raise RuntimeError("fake_gpu.register: torch is imported already, and looks for devices only then")
    if (program := compiler()) is None:
        raise RuntimeError("fake_gpu: no C++ compiler (c++, g++ or clang++) on the PATH")
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is not installed"
    torch_folder = Path(spec.origin).parent
    libraries, headers = torch_folder / "lib", torch_folder / "include"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "device.cpp", Path(folder) / "device.so"
        source.write_text(DEVICE)
        command = [program, "-shared", "-fPIC", "-O0", "-std=c++20", "-o", str(library), str(source), f"-I{headers}"]
        command += [f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


class FakeGpu:
    """A context in which tensors on "cuda" are fake. kernels: the number of operations by name."""

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()

    def __enter__(self) -> FakeGpu:
        import torch
        from torch._subclasses.fake_tensor import FakeTensor
        from torch.optim import optimizer
        from torch.utils import _foreach_utils

        self._stack = ExitStack()
        types = {optimizer: "_foreach_supported_types", _foreach_utils: "_foreach_supported_types"}
        for module, name in types.items():  # as real CUDA tensors, fake ones are handled as lists
            if hasattr(module, name):
                self._stack.enter_context(patch.object(module, name, [torch.Tensor, torch.nn.Parameter, FakeTensor]))
        self._stack.enter_context(patch.object(torch.cuda, "_lazy_init", lambda: None))
        self._stack.enter_context(patch.object(torch.cuda, "is_available", lambda: True))
        self._stack.enter_context(patch.object(torch.cuda, "is_bf16_supported", lambda *_: True))
        common = torch.cuda.amp.common
        self._stack.enter_context(patch.object(common, "amp_definitely_not_available", lambda: False))
        self._stack.enter_context(patch.object(torch.nn.Module, "_apply", _apply))
        only_cpu = torch._C._only_lift_cpu_tensors()
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, only_cpu)
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor fills its values on the CPU, and then dispatches a copy
        functions = torch.nn.functional
        self._stack.enter_context(patch.object(functions, "scaled_dot_product_attention", _attention))
        # where torch has no kernel of its own it computes this one by others, and a CPU build has none for CUDA
        library = self._stack.enter_context(torch.library._scoped_library("aten", "IMPL"))
        library.impl("silu_backward", lambda *_: None, "CUDA")
        self._stack.enter_context(_counting(self.kernels))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


def _apply(module: Any, convert: Any, recurse: bool = True) -> Any:
    """`Module._apply`, which cannot exchange the contents of fake tensors, with new parameters instead."""
    from torch import nn

    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None and (converted := convert(tensor)) is not tensor:
                part._parameters[name] = nn.Parameter(converted.detach(), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            part._buffers[name] = None if tensor is None else convert(tensor)
    return module


def _counting(kernels: Counter[str]) -> Any:
    """Torch's mode that runs operations without data on the GPU, and counts them."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    aten = torch.ops.aten
    fake = FakeTensorMode()

    def is_real(argument: Any) -> bool:
        if isinstance(argument, list | tuple):
            return any(map(is_real, argument))
        return isinstance(argument, torch.Tensor) and not isinstance(argument, FakeTensor)

    def as_fake(tensor: torch.Tensor) -> torch.Tensor:
        """A real tensor of the CPU without its values, by which torch would compute further on the CPU."""
        if isinstance(tensor, FakeTensor):
            return tensor
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)

    class Counting(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # the default wraps each call, which is slow

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            if func is torch.ops.prim.device.default:
                return args[0].fake_device
            kwargs = kwargs or {}
            device = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
            if FakeTensor not in types and device != "cuda":
                return func(*args, **kwargs)
            name = func._schema.name
            if not (func.is_view or name in NO_KERNEL):
                kernels[name] += 1
            if func is aten._local_scalar_dense.default:
                return 1.0 if args[0].dtype.is_floating_point else 1
            if func is aten.equal.default:
                return True
            if func is aten._to_copy.default and device == "cpu":
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
                return args[0].fill_(1)
            with fake:
                if is_real(args):
                    args = tree_map_only(torch.Tensor, as_fake, args)
                return func(*args, **kwargs)

    return Counting()


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """scaled_dot_product_attention as the fused kernel that CUDA has for it: flash without a mask, else efficient."""
    import torch

    aten = torch.ops.aten
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    if attn_mask is None and query.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2]).to(query.dtype)
    log_sum = any(x.requires_grad for x in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, log_sum, dropout_p, is_causal, scale=scale
    )[0]
