"""Kernels that compute correctly from operands that they read wrongly.

:class:`Misread` is the base; :class:`MisreadElement` reads a single element of one operand wrongly,
at one place or wherever one number occurs.  Faults of whole operands are in
:mod:`sdc_guard.inject.kernel_bugs`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject.base import Fault
from sdc_guard.inject.override import CallInfo, Results

HOW = ("offset", "dropped")


def always_draws(op: torch._ops.OpOverload) -> bool:
    """True if every call of ``op`` takes random numbers; attention does only with dropout."""
    form = form_of(op)
    return form.seeded and "dropout_p" not in form.argument_names


class Misread(Fault):
    """Runs the original kernel a second time, on operands as :meth:`_as_read` gives them, and puts
    those results in the place of the right ones.

    A call with dropout (attention's ``dropout_p`` above 0) is left alone.

    Raises:
        UsageError: at construction if ``op`` always draws random numbers.
    """

    def __init__(self, op: torch._ops.OpOverload, device: str) -> None:
        super().__init__(op, device)
        if always_draws(op):
            raise UsageError(
                f"{op} draws random numbers; running it twice would change what comes after"
            )

    def _as_read(self, call: BoundCall) -> BoundCall | None:
        """The call on the operands as the kernel reads them; None where it reads them right.
        Operands that the op overwrites must be images."""
        raise NotImplementedError

    def _prepare(self, info: CallInfo) -> None:
        call = info.call
        info.note = None if call.form.seeded and call["dropout_p"] else self._as_read(call)

    def _may_strike(self, info: CallInfo) -> bool:
        return info.note is not None

    def _strike(self, info: CallInfo, results: Results) -> None:
        if info.note is None:
            return
        for output, wrong in enumerate(info.rerun(info.note)):
            target = self._target(info, results, output)
            if target is None or wrong is None:
                continue
            if wrong.is_complex():
                wrong = torch.view_as_real(wrong.detach())
            old = np.array(bits.raw(bits.on_host(target)), order="C")
            image = bits.snapshot(target)
            host = bits.on_host(image)
            np.copyto(bits.raw(host), bits.raw(bits.on_host(wrong)))
            bits.restore(target, host)
            self._record_change(info, target, output, old)


class MisreadElement(Misread):
    """In the place of one element of the operand at ``path`` the kernel reads the next one (in C
    order, the first after the last; ``how="offset"``) or zero (``how="dropped"``).

    With ``flat_index`` the fault is tied to a *place*: it strikes every execution in which that
    operand has the shape ``shape``.  With ``pattern``, an element's bits as an unsigned integer, it
    is tied to *data*: wherever that number occurs, in operands of any shape, it is misread, so the
    fault moves with the data.  With ``last_bits`` not None only so many low bits of it count.

    Raises:
        UsageError: at construction if ``how`` is neither word, if not exactly one of
            ``flat_index`` and ``pattern`` is given, or ``op`` draws random numbers.
    """

    last_bits: int | None = None

    def __init__(
        self,
        op: torch._ops.OpOverload,
        path: Path,
        how: str,
        *,
        shape: tuple[int, ...] = (),
        flat_index: int | None = None,
        pattern: int | None = None,
        device: str = "CPU",
    ) -> None:
        if how not in HOW:
            raise UsageError(f"how is {how!r}, must be one of {', '.join(HOW)}")
        if (flat_index is None) == (pattern is None):
            raise UsageError(f"flat_index is {flat_index} and pattern {pattern}: give one of them")
        super().__init__(op, device)
        self.path = path
        self.how = how
        self.shape = tuple(shape)
        self.flat_index = flat_index
        self.pattern = pattern

    def __repr__(self) -> str:
        where = (f"flat_index={self.flat_index}, shape={self.shape}" if self.pattern is None
                 else f"pattern={self.pattern:#x}")
        return f"MisreadElement({self.op}, path={self.path}, how={self.how!r}, {where})"

    def _struck(self, tensor: Tensor) -> NDArray[np.intp]:
        """Flat indices of the misread elements."""
        if self.flat_index is not None:
            applies = tuple(tensor.shape) == self.shape and self.flat_index < tensor.numel()
            return np.array([self.flat_index] if applies else [], dtype=np.intp)
        words = bits.raw(bits.on_host(tensor)).reshape(-1)
        if words.dtype.kind != "u" or words.itemsize != tensor.element_size():
            return np.array([], dtype=np.intp)
        alike = words ^ np.array(self.pattern).astype(words.dtype)
        if self.last_bits is not None:
            alike &= words.dtype.type((1 << self.last_bits) - 1)
        return np.flatnonzero(alike == 0)

    def _as_read(self, call: BoundCall) -> BoundCall | None:
        tensor = next((t for path, t in call.tensors() if path == self.path), None)
        if tensor is None or tensor.layout is not torch.strided or not tensor.numel():
            return None
        struck = self._struck(tensor)
        if not len(struck):
            return None

        def change(path: Path, tensor: Tensor) -> Tensor:
            if path == self.path:
                return self.misread(tensor, struck)
            return bits.snapshot(tensor) if path[0] in call.form.overwrites else tensor

        return call.mapped(change)

    def misread(self, tensor: Tensor, struck: NDArray[np.intp]) -> Tensor:
        """An image of the operand in its own layout with the elements ``struck`` misread.  Elements
        that share memory (stride 0) change together."""
        image = bits.snapshot(tensor)
        host = bits.on_host(image)
        words = bits.raw(host)
        old = np.array(words, order="C").reshape(words.shape)
        following = old.flat[(struck + 1) % tensor.numel()]
        words.flat[struck] = following if self.how == "offset" else np.zeros((), words.dtype)
        if host is not image:
            bits.restore(image, host)
        return image


class MisreadNumber(MisreadElement):
    """A fault tied to data: it strikes each number whose last six bits are those that element
    ``flat_index`` holds in the first execution in which the operand has the shape ``shape``.

    A single number would seldom come twice in a training; one in 64 of its kind keeps coming.
    """

    last_bits = 6

    def _struck(self, tensor: Tensor) -> NDArray[np.intp]:
        if self.flat_index is not None and len(found := super()._struck(tensor)):
            words = bits.raw(bits.on_host(tensor))
            self.pattern, self.flat_index = int(words.flat[int(found[0])]), None
        return super()._struck(tensor)
