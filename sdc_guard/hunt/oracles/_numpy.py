"""Elementwise functions that torch and NumPy define alike, by the names of their packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs, "neg": np.negative, "sqrt": np.sqrt, "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "round": np.round, "square": np.square, "reciprocal": np.reciprocal,
    "signbit": np.signbit, "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite,
    "logical_not": np.logical_not, "deg2rad": np.deg2rad, "rad2deg": np.rad2deg, "sinc": np.sinc,
    "positive": np.positive,
}
"""``sign`` is absent: of NaN it is NaN in NumPy and 0 in torch, which documents neither."""

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide,
    "true_divide": np.true_divide, "maximum": np.maximum, "minimum": np.minimum,
    "fmax": np.fmax, "fmin": np.fmin, "hypot": np.hypot, "atan2": np.arctan2,
    "copysign": np.copysign, "nextafter": np.nextafter, "logaddexp": np.logaddexp,
    "logaddexp2": np.logaddexp2, "pow": np.power, "fmod": np.fmod, "eq": np.equal,
    "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_xor": np.logical_xor, "heaviside": np.heaviside,
}

_BOOLEAN = frozenset({
    "signbit", "isnan", "isinf", "isfinite", "logical_not", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_xor"})
_TO_FLOAT = frozenset({
    "sqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "reciprocal", "deg2rad",
    "rad2deg", "sinc", "div", "true_divide", "atan2", "copysign"})
_AS_OPERANDS = frozenset({
    "abs", "neg", "floor", "ceil", "trunc", "round", "square", "positive", "add", "sub", "mul",
    "maximum", "minimum", "fmax", "fmin", "pow", "fmod"})


def expected_dtype(name: str, operands: list[Any]) -> torch.dtype | None:
    """The dtype of the result by torch's rules of promotion (``torch.result_type``, integers to the
    default dtype where the function is not integral); None where nothing is said."""
    if name in _BOOLEAN:
        return torch.bool
    first = operands[0]
    if not isinstance(first, Tensor):
        return None
    common = first.dtype if len(operands) == 1 else torch.result_type(first, operands[1])
    if name in _TO_FLOAT:
        return common if common.is_floating_point else torch.get_default_dtype()
    if name == "square" and common is torch.bool:
        return torch.int64
    return common if name in _AS_OPERANDS else None
