"""What `torch_file` reads as torch has it: views for checkpoints of gigabytes, copies for our own small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.pickle_standins import StoredTensor
from ofer_models.workshop.official.torch_file import read_torch

_TYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
_DEEPEST = 32


def tensor_of(stored: StoredTensor) -> Tensor:
    """A view of the file's numbers."""
    dtype, raw = _TYPES[stored.storage.kind], stored.storage.raw
    if raw is None or not raw.size:
        return torch.empty(stored.size, dtype=dtype)
    if raw.ctypes.data % dtype.itemsize:
        raw = raw.copy()
    return torch.from_numpy(raw).view(dtype).as_strided(stored.size, stored.stride, stored.offset)


def load_torch(path: Path) -> Any:
    """In the place of `torch.load`: numbers, containers and tensors (copies) of a file of `torch.save`.

    Raises UnsafePickleError with one line.
    """
    return _copied(read_torch(path), 0)


def _copied(content: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise UnsafePickleError("holds something that is nested too deeply")
    if isinstance(content, StoredTensor):
        return tensor_of(content).clone()
    if isinstance(content, dict):
        return {name: _copied(value, depth + 1) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_copied(value, depth + 1) for value in content)
    return content
