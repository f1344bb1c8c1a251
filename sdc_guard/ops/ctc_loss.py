"""Connectionist temporal classification loss and its gradient.

*Loss.*  The recursion over all alignments in float64 and its running bound, which grows by a few
roundings per step (:mod:`sdc_guard.bounds.ctc`).  The table of partial sums is memory that a kernel
fills only where its backward reads it, so it is judged through the loss and the gradient.

*Gradient.*  With the operand's own table A and loss L and the sums B from the end,

    dlp_t(c) = dL (e^{lp_t(c)} - e^x),
    x = log(sum_{s: l_s = c} e^{A_t(s) + B_t(s)}) + L - lp_t(c),

0 beyond an input's length, and everywhere for an infinite loss that is set to 0.  x errs by that of
B, by ``24 u + 2 u |.|`` for each of the sum's terms and by three roundings of its parts, which
multiplies ``e^x`` by at most e to that; two exponentials of 4 ulps, a difference and a product
follow.  An infinite loss that is kept makes gradients that are not judged, nor are those of
log-probabilities that are not finite (ATen's formula has ``-inf + inf`` in x) and of sequences with
a blank among their labels, which torch does not permit and whose last step it sums otherwise.

*Place.*  Sequences are computed by themselves: rolled batches keep every bit, and so does the
negated gradient (seen in fp32 and fp64, 1 and 2 threads).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.ctc import log_likelihood, own_error, recursion, spread
from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate

aten = torch.ops.aten
LOSS_FORMULA = "sum over the steps of 24 u + 2 u (|A| + |lp|)"
GRADIENT_FORMULA = "e^x (e^{error of x} - 1) + roundings"


def _lengths(value: Any) -> list[int]:
    return [int(n) for n in (bits.values(value) if isinstance(value, Tensor) else value)]


def _is_known(call: BoundCall) -> bool:
    probs = call["log_probs"]
    return probs.dim() == 3 and is_covered_float(probs.dtype) and bool(probs.numel())


class _Batch:
    """The operands of a call, sequence by sequence."""

    def __init__(self, call: HostCall) -> None:
        self.probs = call.array("log_probs")
        self.blank = int(call["blank"])
        self.inputs, sizes = _lengths(call["input_lengths"]), _lengths(call["target_lengths"])
        targets = call.array("targets").astype(np.int64)
        if targets.ndim == 1:
            starts = np.concatenate([[0], np.cumsum(sizes)])
            self.targets = [targets[starts[n]:starts[n] + size] for n, size in enumerate(sizes)]
        else:
            self.targets = [targets[n, :size] for n, size in enumerate(sizes)]

    def __len__(self) -> int:
        return int(self.probs.shape[1])

    def sequence(self, n: int) -> tuple[F64, NDArray[np.int64]]:
        return self.probs[: self.inputs[n], n], spread(self.targets[n], self.blank)


def ctc_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """Minus the logarithm of the probability of the target, all alignments together."""
    if not _is_known(call.call):
        return (None, None)
    batch, fmt = _Batch(call), format_of(call["log_probs"].dtype)
    found = np.zeros((2, len(batch)))
    with np.errstate(all="ignore"):
        for n in range(len(batch)):
            probs, labels = batch.sequence(n)
            if not probs.shape[0]:
                found[:, n] = (0.0 if labels.size == 1 else np.inf), 0.0
                continue
            value, error = log_likelihood(recursion(probs, labels, fmt.u), fmt.u)
            found[:, n] = -value, error
    limit = np.where(np.isfinite(found[0]), found[1], np.inf)
    expected = np.where(np.isnan(found[0]), 0.0, found[0])
    limit = np.where(np.isnan(found[0]), np.inf, limit)
    shape = tuple(call.held[0].shape)
    magnitude = np.abs(np.where(np.isfinite(batch.probs), batch.probs, 0.0)).sum((0, 2))
    return (Reference(expected.reshape(shape), limit.reshape(shape), limit.reshape(shape),
                      LOSS_FORMULA, magnitude.reshape(shape)), None)


def ctc_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradient of each log-probability, from the table of the forward."""
    if not _is_known(call.call):
        return (None,)
    batch, fmt = _Batch(call), format_of(call["log_probs"].dtype)
    table, losses = call.array("log_alpha"), call.array("neg_log_likelihood")
    grads = np.broadcast_to(call.array("grad"), losses.shape)
    expected = np.zeros(batch.probs.shape)
    limit = np.zeros(batch.probs.shape)
    magnitude = np.zeros(batch.probs.shape)
    with np.errstate(all="ignore"):
        for n in range(len(batch)):
            if losses[n] == np.inf and call["zero_infinity"]:
                continue
            probs, labels = batch.sequence(n)
            steps = probs.shape[0]
            invalid = bool((batch.targets[n] == batch.blank).any())
            if invalid or not np.isfinite(losses[n]) or not np.isfinite(grads[n]) or not steps:
                limit[:, n] = np.inf
                continue
            value, error, size, reach = _gradient(probs, labels, table[n, :steps, : labels.size],
                                           float(losses[n]), fmt.u)
            expected[:steps, n] = grads[n] * value
            error = np.abs(grads[n]) * (error + 2 * fmt.u * size)
            limit[:steps, n] = error + rounding(expected[:steps, n], fmt) + 4 * fmt.tiny * max(
                abs(grads[n]), 1.0)
            limit[:steps, n][~np.isfinite(probs)] = np.inf
            magnitude[:steps, n] = np.maximum(size * max(abs(grads[n]), 1.0), reach)
    unknown = ~np.isfinite(expected) | np.isnan(limit)
    limit = np.where(unknown, np.inf, limit)
    return (Reference(np.where(unknown, 0.0, expected), limit, limit, GRADIENT_FORMULA,
                      np.where(unknown, np.inf, magnitude)),)


def _gradient(probs: F64, labels: NDArray[np.int64], table: F64, loss: float, u: float
              ) -> tuple[F64, F64, F64, float]:
    """``e^lp - e^x``, its error before the factor, the size of its parts, and the largest
    logarithm."""
    from_end = recursion(probs[::-1], labels[::-1], u)
    back, back_error = from_end.value[::-1, ::-1], from_end.error[::-1, ::-1]
    both = table + back
    largest = np.full(probs.shape, -np.inf)
    for s, label in enumerate(labels):
        largest[:, label] = np.maximum(largest[:, label], both[:, s])
    base = np.where(np.isfinite(largest), largest, 0.0)
    total, count, shift = (np.zeros(probs.shape) for _ in range(3))
    for s, label in enumerate(labels):
        total[:, label] += np.exp(both[:, s] - base[:, label])
        count[:, label] += 1
        used = np.isfinite(both[:, s])
        moved = back_error[:, s] + 2 * u * (np.abs(table[:, s]) + np.abs(back[:, s]))
        shift[:, label] = np.maximum(shift[:, label], np.where(used, moved, 0.0))
    joined = np.log(total) + base
    x = joined + loss - probs
    parts = np.where(np.isfinite(joined), np.abs(joined), 0.0) + abs(loss) + np.where(
        np.isfinite(probs), np.abs(probs), 0.0)
    moved = shift + count * own_error(joined, u) + 3 * u * parts
    named = np.where(count > 0, np.exp(x), 0.0)
    plain = np.exp(probs)
    error = named * np.expm1(moved) + 10 * u * (plain + named * np.exp(moved))
    reach = 2 * (abs(loss) + sum(float(np.abs(np.where(np.isfinite(a), a, 0.0)).max(initial=0.0))
                                 for a in (table, back, probs)))
    return plain - named, error, plain + named * np.exp(moved), reach


def _rolled(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    """The batch begins with another sequence; concatenated targets stay where they are."""
    names = call.form.argument_names
    num = int(call["log_probs"].shape[1])
    by = 1 + visit % max(num - 1, 1)
    dims = {"log_probs": 1, "targets": 0, "grad": 0, "neg_log_likelihood": 0, "log_alpha": 0}
    forward = "grad" not in names
    if num < 2 or call["targets"].dim() != 2:
        return (None,) * (2 if forward else 1)
    moved: dict[str, Any] = {
        name: torch.roll(call[name], -by, dim) for name, dim in dims.items() if name in names}
    for name in ("input_lengths", "target_lengths"):
        value = call[name]
        moved[name] = (torch.roll(value, -by, 0) if isinstance(value, Tensor)
                       else [*value[by:], *value[:by]])
    first = call.replaced(**moved).run()[0]
    back = torch.roll(first, by, 0 if forward else 1)
    return (back, None) if forward else (back,)


ROLLED = Symmetry("roll the batch", (Move("custom", function=_rolled),),
                  frozenset({"address", "core", "tile"}), True)


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({p: (FIXED,) * t.dim() for p, t in call.tensors()},
                tuple(() if t is None else (FIXED,) * t.dim() for t in held))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    moved = (ROLLED,) if call["targets"].dim() == 2 and call["log_probs"].shape[1] > 1 else ()
    return (*moved, *((negate("grad"),) if len(held) == 1 else ()), RERUN)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Some ten operations for each label and step, and two for each probability."""
    probs, longest = call["log_probs"], max(_lengths(call["target_lengths"]), default=0)
    steps, num, classes = (int(n) for n in (*probs.shape, 1, 1)[:3])
    return steps * num * (10 * (2 * longest + 1) + 2 * classes)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (torch.float32, torch.float64):
        return []

    def drawn(steps: int, num: int, classes: int) -> Tensor:
        probs = torch.randn(steps, num, classes, generator=generator, dtype=torch.float64)
        return (2 * probs).log_softmax(-1).to(dtype)

    def labels(*shape: int) -> Tensor:
        return torch.randint(1, 5, shape, generator=generator)

    op = aten._ctc_loss
    return [
        (op.default, (drawn(12, 3, 6), labels(3, 4), [12, 9, 11], [4, 2, 3]), {}),
        (op.default, (drawn(25, 2, 5), labels(9), [25, 20], [5, 4], 0, True), {}),
        (op.default, (drawn(6, 2, 5), labels(2, 5), [6, 2], [2, 5], 0, True), {}),
        (op.default, (drawn(7, 1, 7), labels(1, 2), [7], [2], 6), {}),
        (op.Tensor, (drawn(9, 4, 6), labels(4, 3), torch.tensor([9, 8, 7, 9]),
                     torch.tensor([3, 3, 0, 1])), {}),
    ]


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    calls: SampleList = []
    for op, args, _ in _samples(generator, dtype):
        loss, table = op(*args)
        blank = args[4] if len(args) > 4 else 0
        zero = len(args) > 5
        grad = torch.randn(loss.shape, generator=generator, dtype=torch.float64).to(dtype)
        packet = aten._ctc_loss_backward
        backward = packet.Tensor if isinstance(args[2], Tensor) else packet.default
        calls.append((backward, (grad, *args[:4], loss, table, blank, zero), {}))
    return calls


checked(aten._ctc_loss, family="loss", axes=_axes, symmetries=_symmetries, flops=_flops,
        scratch=(1,), samples=_samples)(ctc_loss)
checked(aten._ctc_loss_backward, family="loss", axes=_axes, symmetries=_symmetries, flops=_flops,
        deterministic=False, samples=_backward_samples)(ctc_loss_backward)
