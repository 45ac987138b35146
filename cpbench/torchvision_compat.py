"""A workaround for importing torchvision with a torch that it was not built for.

The usual torchvision wheel for Linux is built for CUDA. With a CPU-only torch its C extension does not
load. torchvision ignores that silently (`torchvision/extension.py`), but then registers fake kernels for two
of the extension's operators (`torchvision/_meta_registrations.py`), which now have no schema, and dies with
"operator torchvision::nms does not exist". open_clip and timm import torchvision and die with it, although
all they use is its transforms.

The workaround is to define the two schemas. The operators still have no kernel: `torchvision.ops.nms` goes on
raising torchvision's own error. Where the extension loads, it brings the schemas, and nothing is done.
"""

import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

OPERATORS = ("nms", "qnms")
SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_library = None  # torch.library.Library; the schemas live as long as it does


def apply() -> bool:
    """Define the missing schemas if torchvision needs them; returns whether this module has defined them.

    Call it before the first import of torchvision, open_clip or timm; further calls do nothing.
    """
    global _library
    if _library is not None:
        return True
    if "torchvision" in sys.modules:  # imported, or being imported: too late to help, and no need
        return False
    spec = importlib.util.find_spec("torchvision")  # finds the package without running it
    if spec is None or spec.origin is None:  # absent, or an empty folder of that name
        return False
    import torch

    absent = [name for name in OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if not absent or _extension_loads(os.path.dirname(spec.origin)):
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in absent:
        _library.define(SCHEMA.format(name))
    return True


def _extension_loads(folder: str) -> bool:
    """Load torchvision's C extension as torchvision would; returns whether it loads."""
    import torch

    extension = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if extension is None:
        return False
    if os.name == "nt":
        os.add_dll_directory(folder)
    try:
        torch.ops.load_library(extension.origin)
    except OSError:  # what torchvision catches, too
        return False
    return True
