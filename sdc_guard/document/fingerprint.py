"""What makes two findings of different runs the same divergence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from sdc_guard.records import Finding, TensorMeta

_LENGTH = 16
_NUMBER = re.compile(r"\d+")


def fingerprint(finding: Finding, *, tool: str, file: str, test: str = "") -> str:
    """Sixteen hexadecimal digits that do not depend on lines, steps, values, addresses, ranks,
    the layer's number, the verdict, or the witness that happened to look.

    ``file`` is the user's file relative to the report's root, ``test`` the test's name.
    """
    call = finding.call
    parts = (
        tool,
        call.op,
        call.phase,
        _NUMBER.sub("*", call.module),
        file,
        test,
        ",".join(dtypes(call.outputs or call.operands)),
        ",".join(layout_class(m) for m in call.operands),
        device_class(finding.device),
    )
    text = "\x00".join(parts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest()[:_LENGTH]


def dtypes(tensors: Sequence[TensorMeta]) -> list[str]:
    """The distinct dtypes, sorted."""
    return sorted({m.dtype for m in tensors})


def device_class(device: str) -> str:
    """``cuda`` for ``cuda:3``: the same divergence on a sister device is the same."""
    return device.partition(":")[0]


def layout_class(meta: TensorMeta) -> str:
    """``scalar``, ``contiguous``, ``permuted``, ``expanded``, ``overlapping`` or ``strided``."""
    dims = [(size, stride) for size, stride in zip(meta.shape, meta.stride, strict=False)
            if size > 1]
    if not meta.shape:
        return "scalar"
    if any(stride == 0 for _, stride in dims):
        return "expanded"
    if _is_dense(dims[::-1]):
        return "contiguous"
    by_stride = sorted(dims, key=lambda d: d[1])
    if _is_dense(by_stride):
        return "permuted"
    reach = 0
    for size, stride in by_stride:
        if stride <= reach:
            return "overlapping"
        reach += (size - 1) * stride
    return "strided"


def _is_dense(dims: Sequence[tuple[int, int]]) -> bool:
    expected = 1
    for size, stride in dims:
        if stride != expected:
            return False
        expected *= size
    return True
