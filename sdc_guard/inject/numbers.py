"""Call a boxed kernel with plain numbers where its schema says Tensor.

``x * 0.5`` reaches the kernel of ``mul.Tensor`` with 0.5 as a "wrapped number": a tensor of zero
dimensions that carries a flag and takes part in type promotion as a number does.  A Python kernel
gets such an operand as a plain float, and ``call_boxed`` refuses to turn it back.  Making an
ordinary tensor of it would change results: ``float32 scalar * float64 scalar`` is float64.

torch's own conversion makes a wrapped number while an operator is being called that takes numbers
for tensors (``torch._C._should_allow_numbers_as_tensors``), and that state is kept per thread.
So the call is made from inside such an operator: a dispatch mode, pushed on top for this
moment, gets ``aten.add.Tensor`` and makes the wanted call instead of adding anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

_CARRIER = torch.ops.aten.add.Tensor._op
_operand = torch.empty(1, device="cpu")
_Key = torch._C.DispatchKey


class _Instead(TorchDispatchMode):
    """Makes one call of ``function`` in place of the operator that comes in."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, function: Callable[[], Any], included: Any, excluded: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.function = function
        self.included = included
        self.excluded = excluded
        self.returned: Any = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # The handler of a mode runs with more dispatch keys excluded than the kernel did.
        with torch._C._ForceDispatchKeyGuard(self.included, self.excluded):
            self.returned = self.function()
        return args[0]


def with_numbers_as_tensors(function: Callable[[], Any]) -> Any:
    """Return ``function()``, called where ``call_boxed`` takes a number for a Tensor; dispatch keys
    and dispatch modes are inside as they are outside."""
    included = torch._C._dispatch_tls_local_include_set()
    excluded = torch._C._dispatch_tls_local_exclude_set()
    reachable = excluded.remove(_Key.Python).remove(_Key.PythonTLSSnapshot)
    mode = _Instead(function, included, excluded)
    with torch._C._ForceDispatchKeyGuard(included, reachable):
        _push_mode(mode)
        try:
            _CARRIER(_operand, 0)
        finally:
            _pop_mode()
    return mode.returned


def takes_tensor(argument: Any) -> bool:
    """True if an argument of a schema is a Tensor or an optional one."""
    return str(argument.type) in ("Tensor", "Optional[Tensor]")


def is_number(value: object) -> bool:
    """True for what torch takes as a Scalar: int, float, complex, bool."""
    return isinstance(value, (int, float, complex))
