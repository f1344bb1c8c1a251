"""Names to callables: overloads of ATen and of custom libraries, and Python paths.

Trials come from files too (a corpus, a kept catalogue, a trace), and whoever wrote such a file must
not choose what is called.  So a name means an operator, or one of torch's functions on tensors, and
nothing else but what the user has typed (:func:`allow`).
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from sdc_guard.errors import UsageError
from sdc_guard.evidence.standalone.archive import Unreadable
from sdc_guard.evidence.standalone.rebuild import resolve_op

MODULES = ("torch", "torch.Tensor", "torch.nn.functional", "torch.linalg", "torch.fft",
           "torch.special", "torch.masked", "torch.signal.windows")
"""Where torch's functions on tensors live; of each, those that :func:`_is_operator` knows."""
_OVERLOAD = re.compile(r"(?!torch\.)[A-Za-z_]\w*(\.[A-Za-z_]\w*){2}", re.ASCII)
_ARITHMETIC = re.compile(
    r"__[ri]?(add|sub|mul|div|truediv|floordiv|mod|pow|matmul|and|or|xor|lshift|rshift|eq|ne|lt|le"
    r"|gt|ge|neg|pos|abs|invert|getitem)__")
_ALSO = frozenset({"torch._segment_reduce"})
"""In torch's catalogue, and in no list of it."""
_typed: set[str] = set()


def allow(target: str) -> None:
    """Let :func:`resolve` import this very name: the user has typed it."""
    _typed.add(target)


@cache
def resolve(target: str) -> Callable[..., Any]:
    """``torch.ops.aten.sum.dim_IntList`` for ``aten.sum.dim_IntList``, else what the Python path
    names.

    Raises:
        UsageError: if there is no such operator or function here, or it is none that a file may
            name and the user has not typed it.
    """
    found = _overload(target) or _function_of_torch(target)
    if found is None and target in _typed:
        found = _imported(target)
    if found is not None:
        return found
    raise UsageError(
        f"{target[:200]!r} names no operator and no function on tensors here; give an overload "
        "such as aten.sum.dim_IntList or a Python path such as torch.nn.functional.gelu (a "
        "function of your own is called only where --ops names it in full)")


def is_known(target: str) -> bool:
    """True for a name that :func:`resolve` takes."""
    try:
        resolve(target)
    except UsageError:
        return False
    return True


def is_overload(target: str) -> bool:
    """True if a name means an operator's overload."""
    return isinstance(resolve(target), torch._ops.OpOverload)


def _overload(target: str) -> Callable[..., Any] | None:
    """The overload; None for none, and for those that act on more than tensors."""
    if not _OVERLOAD.fullmatch(target):
        return None
    namespace, base, overload = target.split(".")
    try:
        return resolve_op(f"{namespace}::{base}.{overload}")  # type: ignore[no-any-return]
    except (Unreadable, AttributeError, RuntimeError):
        return None


def _function_of_torch(target: str) -> Callable[..., Any] | None:
    module, _, name = target.rpartition(".")
    if module not in MODULES:
        return None
    owner: Any = torch
    for part in module.split(".")[1:]:
        owner = getattr(owner, part, None)
    found: Any = getattr(owner, name, None)
    return found if callable(found) and _is_operator(module, name, found) else None


def _is_operator(module: str, name: str, found: Any) -> bool:
    """True for functions that take tensors and compute; ``torch.load`` and ``torch.compile`` do
    other things."""
    if inspect.isclass(found) or inspect.ismodule(found):
        return False
    if module == "torch.Tensor" and name.startswith("__"):
        return _ARITHMETIC.fullmatch(name) is not None
    if module == "torch.nn.functional" and inspect.isfunction(found):
        return found.__module__ in (module, "torch._jit_internal", "torch.functional")
    if module in ("torch.masked", "torch.signal.windows"):
        return found.__module__.startswith(f"{module}.") and not name.startswith("_")
    return (f"{module}.{name}" in _ALSO or found in _overridable()
            or _is_factory(name, found))


@cache
def _overridable() -> frozenset[Any]:
    """Torch's own list of its functions that take tensors."""
    return frozenset(f for functions in torch.overrides.get_overridable_functions().values()
                     for f in functions)


def _is_factory(name: str, found: Any) -> bool:
    """True for ``zeros``, ``arange``, ``Tensor.new_full``, ``broadcast_shapes``: they make tensors,
    and act on nothing else."""
    if getattr(found, "__module__", None) == "torch.functional":
        return name in torch.functional.__all__
    if inspect.isfunction(found):
        return False
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    return any(
        _overload(f"aten.{name}.{schema.overload_name or 'default'}") is not None
        for schema in schemas)


def _imported(target: str) -> Callable[..., Any] | None:
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found if callable(found) else None
    return None
