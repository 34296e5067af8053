"""Device memory as a DLPack capsule, for torch.from_dlpack and the like, and from one.

The structures are those of dlpack.h, version 0.8 (the unversioned `DLManagedTensor`).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass
from math import prod
from typing import Any

CUDA = 2
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}
_NAME = b"dltensor"  # a capsule keeps this pointer: it must never be freed


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
        ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)), ("byte_offset", c_uint64),
    )  # fmt: skip


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", _Deleter))

# Handles of their own: argument types set on ctypes.pythonapi's would hold for the whole process.
_new = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_char_p, c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

# What consumers still hold: address of the structure -> everything it points to.
_exported: dict[int, tuple[Any, ...]] = {}


def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _forget_unused(capsule: int) -> None:
    """Free the structure of a capsule that was not consumed (a consumer renames it)."""
    if _is_valid(capsule, _NAME):
        _exported.pop(_pointer(capsule, _NAME), None)


@dataclass(frozen=True)
class Borrowed:
    """What a capsule says of its memory; it stays the capsule's."""

    address: int
    size: int
    device: int
    dense: bool
    capsule: object


def borrowed(tensor: Any) -> Borrowed | None:
    """The memory of an object with `__dlpack__`; None where it is not a CUDA device's."""
    if tensor.__dlpack_device__()[0] != CUDA:
        return None
    made = tensor.__dlpack__()
    seen = _Managed.from_address(_pointer(id(made), _NAME)).tensor
    shape = seen.shape[: seen.ndim]
    dense = [prod(shape[i + 1 :]) for i in range(seen.ndim)]
    return Borrowed(
        (seen.data or 0) + seen.byte_offset,
        prod(shape) * seen.bits * seen.lanes // 8,
        seen.device_id,
        not seen.strides or 0 in shape or seen.strides[: seen.ndim] == dense,
        made,
    )


_delete = _Deleter(_forget)
_destroy = ctypes.PYFUNCTYPE(None, c_void_p)(_forget_unused)


def capsule(
    owner: object,
    address: int,
    ordinal: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Any:
    """A `dltensor` capsule; `dtype` is torch's name, `owner` lives as long as a consumer does.

    ValueError for the 8-bit floats, which this version of DLPack cannot name.
    """
    kind = dtype.rstrip("0123456789")
    if kind not in _CODES:
        raise ValueError(f"DLPack cannot name {dtype}")
    bits = int(dtype[len(kind) :] or 8)
    shape_array = (c_int64 * len(shape))(*shape)
    stride_array = (c_int64 * len(strides))(*strides)
    tensor = _Tensor(
        address, CUDA, ordinal, len(shape), _CODES[kind], bits, 1, shape_array, stride_array, 0
    )
    managed = _Managed(tensor, None, _delete)
    address_of_managed = ctypes.addressof(managed)
    _exported[address_of_managed] = (managed, shape_array, stride_array, owner)
    return _new(address_of_managed, _NAME, _destroy)
