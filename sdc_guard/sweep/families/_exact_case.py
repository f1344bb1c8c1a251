"""What the tests of F12 have in common: cases with answers known to the bit, and data that says
where it was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import Bits, Made, Place, Unsupported
from sdc_guard.sweep.exact import LAYOUTS, UNSIGNED

_ODD = 0x9E3779B97F4A7C15
_PRIME = 0x9E3779B1
_REFUSALS = ("not implemented for", "not supported", "unsupported", "does not support")

Run = Callable[[], Sequence[Tensor | NDArray[Any]]]
Make = Callable[[np.random.Generator, Place], Made]


def exact(
    run: Run, expected: Sequence[Bits], inputs: Sequence[Bits] = (), *, flops: int = 0,
    num_checks: int = 0,
) -> Made:
    """A case with a known answer, tried once.

    Raises:
        Unsupported: if torch has no such operator for the dtype and device.
    """
    try:
        trial = run()
    except (NotImplementedError, RuntimeError) as error:
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        if isinstance(error, NotImplementedError) or any(word in text for word in _REFUSALS):
            raise Unsupported(text) from error
        raise
    return Made(
        run=run, expected=tuple(expected), inputs=tuple(inputs), flops=flops,
        num_bytes=sum(a.nbytes for a in (*inputs, *expected)), num_checks=num_checks,
        trial=[trial])


def index_code(count: int, dtype: str, salt: int = 0) -> Bits:
    """``count`` elements, each the code of its own index, so that an element that was read from
    another place shows.

    Codes differ among up to 2^k elements of a k-bit integer format, and among as many elements as a
    floating format of at most 32 bits has finite numbers; there all are finite.

    Raises:
        UsageError: an unknown format.
    """
    index = np.arange(salt, salt + count, dtype=np.uint64)
    mixed = index * np.uint64(_ODD)
    layout = LAYOUTS.get(dtype)
    if layout is None:
        if not dtype.startswith(("int", "uint")):
            raise UsageError(f"format {dtype!r} is unknown; choose one of {', '.join(LAYOUTS)}, or "
                             "an integer format")
        return mixed.astype(UNSIGNED[int(dtype.lstrip("uint")) // 8])
    top = (1 << layout.exponent_bits) - 1
    finite = top << (layout.precision - 1)  # patterns of either sign below infinity
    if layout.num_bits == 64:
        negative, size = mixed >> np.uint64(63), (mixed >> np.uint64(1)) % np.uint64(finite)
    else:
        turned = (index % np.uint64(1 << 24)) * np.uint64(_PRIME) % np.uint64(2 * finite)
        negative, size = np.divmod(turned, np.uint64(finite))
    code = size | (negative << np.uint64(layout.num_bits - 1))
    return code.astype(UNSIGNED[layout.num_bits // 8])

