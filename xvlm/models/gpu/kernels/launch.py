"""Launching a Triton kernel without looking it up again.

Triton finds the compiled form of a kernel by all of its arguments, which takes tens of microseconds; a
training step launches hundreds.  Here the form is remembered by what it depends on: the constants, the
precisions, and the alignment of the tensors.  Every number among the arguments must therefore be declared
`do_not_specialize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

OPTIONS = ("num_warps", "num_stages")
_compiled: dict[Any, tuple[Any, tuple[Any, ...]]] = {}
"""Compiled form and values of the constants, by what the form depends on."""


def launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: Mapping[str, Any]) -> None:
    """Launch `kernel[grid](*args, **constants)`.

    Args:
        args: the arguments before the constants, in the kernel's order.
        constants: the `tl.constexpr` arguments, in the kernel's order, and options of the compilation.
    """
    if not hasattr(kernel, "device_caches"):  # Triton's interpreter, in tests
        kernel[grid](*args, **constants)
        return
    kinds = tuple((one.dtype, one.data_ptr() & 15) for one in args if isinstance(one, Tensor))
    key = (kernel, torch.cuda.current_device(), kinds, *constants.values())
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*args, **constants)
        values = tuple(value for name, value in constants.items() if name not in OPTIONS)
        _compiled[key] = compiled, values
        return
    compiled, values = found
    compiled[(*grid, 1, 1)[:3]](*args, *values)
