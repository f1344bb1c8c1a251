"""What was computed from an operand, kept while nobody writes to that operand.

A weight is an operand of a product in forward, of another in backward, and of a third where
activations are computed again: its sums are taken once.  What is remembered ends

* at an optimizer step, and at the beginning and the end of each step that is watched;
* with any operator that writes to the operand's storage, under whatever name: the storage is
  compared, so a write through ``.data``, which has a version counter of its own, counts;
* with any operator outside of ATen, which may write what its schema does not say (collectives do;
  the all-gather of FSDP2 also keeps the version counter);
* when the storage is freed, resized or moved, or the version counter has changed.

A write that no operator makes (a CUDA extension, another process) is not seen.  It cannot accuse a
right result: what a kernel doubts is judged anew, and by the host's reference, from the operand
itself (``check/device.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")
MAX_REMEMBERED = 4096
MIN_SWEPT = 64
"""Sums of so many operands, and twice as many as lived the last time, are looked through."""


def storage_of(tensor: Tensor) -> int:
    """Identity of the memory that a tensor shares with its views; 0 for one that has none of its
    own (sparse, nested)."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    return int(tensor.untyped_storage()._cdata)


def stream_of(tensor: Tensor) -> int:
    """The stream in which a kernel on this tensor would run now.  What another one computes may not
    be there yet."""
    if not tensor.is_cuda:
        return 0
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


class OperandMemory:
    """See the module docstring.  ``hits`` counts what needed no second computation."""

    def __init__(self) -> None:
        self.hits = 0
        self._kept: dict[tuple[Any, ...], tuple[StorageWeakRef, int, int, Any]] = {}
        self._by_storage: dict[int, list[tuple[Any, ...]]] = {}
        self._swept_at = MIN_SWEPT

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        """``compute()``, or what it gave for the same view of unchanged memory."""
        if operand.is_inference():  # has no version counter
            return compute()
        storage = operand.untyped_storage()
        place = storage._cdata
        key = (place, operand.storage_offset(), operand.shape, operand.stride(), operand.dtype,
               name, stream_of(operand))
        found = self._kept.get(key)
        address, version = operand.data_ptr(), operand._version
        if found is not None:
            owner, known_address, known_version, value = found
            if not owner.expired() and (known_address, known_version) == (address, version):
                self.hits += 1
                kept: T = value
                return kept
        if len(self._kept) >= self._swept_at:
            self._sweep()
        computed = compute()
        # The weak reference keeps the storage's identity from being given to another one.
        self._kept[key] = (StorageWeakRef(storage), address, version, computed)
        self._by_storage.setdefault(place, []).append(key)
        return computed

    def forget(self, written: Iterable[Tensor]) -> None:
        """An operator is about to write to these tensors."""
        for tensor in written:
            for key in self._by_storage.pop(storage_of(tensor), ()):
                self._kept.pop(key, None)

    def clear(self) -> None:
        self._kept.clear()
        self._by_storage.clear()
        self._swept_at = MIN_SWEPT

    def _sweep(self) -> None:
        """Keep what is of operands that live: activations come and go, weights stay."""
        for key in [k for k, (owner, *_) in self._kept.items() if owner.expired()]:
            del self._kept[key]
        if len(self._kept) >= MAX_REMEMBERED:
            self.clear()
        self._by_storage = {}
        for key in self._kept:
            self._by_storage.setdefault(key[0], []).append(key)
        self._swept_at = max(MIN_SWEPT, 2 * len(self._kept))
