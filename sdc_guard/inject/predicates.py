"""Conditions on a call, for faults that only some data, layouts or addresses reach."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.errors import UsageError

Condition = Callable[[BoundCall], bool]


def operand_of(call: BoundCall, operand: str) -> Tensor | None:
    """The operand of that name; of a list its first tensor; None if the call was made without."""
    value = call[operand]
    if isinstance(value, (list, tuple)):
        value = next((v for v in value if isinstance(v, Tensor)), None)
    return value if isinstance(value, Tensor) else None


def one_in(n: int, operand: str, salt: int = 0) -> Condition:
    """Holds for about one content of ``operand`` in ``n``, always the same ones.

    The content's bits are hashed (CRC-32 over the elements in C order, start value ``salt``) and
    the hash must be 0 modulo ``n``.  The same data meets the condition again in a replay; moved
    data usually does not.

    Raises:
        UsageError: if ``n`` is below 1.
    """
    if n < 1:
        raise UsageError(f"n is {n}, must be at least 1: the condition holds once in n contents")

    def holds(call: BoundCall) -> bool:
        tensor = operand_of(call, operand)
        if tensor is None:
            return False
        content = bits.raw(bits.on_host(tensor)).tobytes()
        return zlib.crc32(content, salt) % n == 0

    return holds


def is_transposed(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True if some dimension of size > 1 has a smaller stride than a later one: not C order."""
    real = [s for n, s in zip(shape, strides, strict=True) if n > 1]
    return any(a < b for a, b in pairwise(real))


def is_offset(operand: str) -> Condition:
    """Holds if ``operand`` does not begin at the start of its storage."""
    return lambda call: (t := operand_of(call, operand)) is not None and t.storage_offset() > 0


def is_misaligned(operand: str, multiple_bytes: int = bits.ALIGNMENT_BYTES) -> Condition:
    """Holds if the address of ``operand`` is no multiple of ``multiple_bytes``."""
    return lambda call: (
        (t := operand_of(call, operand)) is not None and t.data_ptr() % multiple_bytes != 0
    )
