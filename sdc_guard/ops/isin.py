"""``isin``: which elements occur among some others; exact.

NaN occurs nowhere, and the two zeros are one number.  ATen compares with every test element or
sorts both together (``isin_default_cpu``, ``isin_sorting`` in ``TensorCompare.cpp``); the answer is
the same.  Operands of two dtypes, which meet in a third that may hold neither, are not judged; nor
is ``assume_unique`` where the elements or the test elements do repeat, of which torch promises
nothing; nor a Python number that the operand's dtype may not hold.

Place: elements split and roll.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry, roll, split

aten = torch.ops.aten

NAMES = ("elements", "test_elements")


def _operand(call: BoundCall | HostCall, plural: str) -> Any:
    """A tensor, or the number that the scalar overloads take in its place."""
    value = call.get(plural)
    return call.get(plural[:-1]) if value is None else value


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    labels = tuple(f"d{d}" for d in range(held[0].dim()))
    named = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    if isinstance(call.get("elements"), Tensor):
        named[call.form.position("elements"),] = labels
    if isinstance(call.get("out"), Tensor) and call["out"].dim() == len(labels):
        named[call.form.position("out"),] = labels
    return Axes(named, (labels,))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    sizes = {f"d{d}": int(n) for d, n in enumerate(held[0].shape)}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if not longest or sizes[longest] < 2 or call["assume_unique"]:
        return (RERUN,)
    return split(longest), roll(longest, lane=True), RERUN


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (*FLOATS, torch.int64):
        return []
    draw = draw_values(generator, dtype, "any")
    op, x = aten.isin, draw(9, 37)
    some = torch.cat([x.reshape(-1)[::30], draw(3)])
    calls: SampleList = [
        (op.Tensor_Tensor, (x, some), {}), (op.Tensor_Tensor, (x.t(), some), {"invert": True}),
        (op.Tensor_Tensor, (draw(700), draw(300)), {}), (op.Tensor_Tensor, (x, draw(0)), {}),
        (op.Tensor_Tensor_out, (x, some), {"out": torch.empty(9, 37, dtype=torch.bool)})]
    line = x.reshape(-1).unique()
    calls += [(op.Tensor_Scalar, (x, 1), {}), (op.Scalar_Tensor, (1, some), {}),
              (op.Tensor_Tensor, (line, some.unique()), {"assume_unique": True})]
    return calls


def _number(value: Any, dtype: torch.dtype) -> NDArray[Any] | None:
    """A Python number that every kernel reads as itself."""
    if isinstance(value, complex) or value != value or value != int(value) or not (
            0 <= value <= 127 or (dtype is not torch.uint8 and -127 <= value < 0)):
        return None
    return np.asarray(int(value))


def _repeats(values: NDArray[Any]) -> bool:
    """True if some number occurs twice."""
    line = np.sort(values.reshape(-1))
    return bool((line[1:] == line[:-1]).any())


@checked(aten.isin, family="selection", axes=_axes, symmetries=_symmetries, window=(OUTERMOST,),
         samples=_samples)
def isin(call: HostCall) -> tuple[Reference | None, ...]:
    """Whether each element occurs among the test elements, or with ``invert`` does not."""
    given = [_operand(call, name) for name in NAMES]
    dtypes = {v.dtype for v in given if isinstance(v, Tensor)}
    dtype = dtypes.pop()
    if dtypes or not bits.has_values(dtype) or dtype.is_complex:
        return (None,)
    found = [bits.values(v) if isinstance(v, Tensor) else _number(v, dtype) for v in given]
    if found[0] is None or found[1] is None:
        return (None,)
    elements, tests = found[0], np.sort(found[1].reshape(-1))
    if call["assume_unique"] and (_repeats(elements) or _repeats(tests)):
        return (None,)
    if tests.size:
        where = np.minimum(np.searchsorted(tests, elements), tests.size - 1)
        among = tests[where] == elements
    else:
        among = np.zeros(elements.shape, dtype=bool)
    expected = among != bool(call["invert"])
    return (Reference(np.asarray(expected), 0.0, 0.0, "exact"),)
