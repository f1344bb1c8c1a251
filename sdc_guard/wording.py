"""What a finding says: the call, the message, and the smallest call that still shows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard.attribute.arbitrate import Ruling
from sdc_guard.attribute.describe import in_full, pattern_of, tensor_meta, worst_element
from sdc_guard.attribute.spread import spread_of
from sdc_guard.calls import BoundCall
from sdc_guard.check.frames import Frame
from sdc_guard.check.plan import Plan
from sdc_guard.observe.mode import Watch
from sdc_guard.observe.provenance import Origin
from sdc_guard.ops._axes import FIXED, narrow, narrow_call
from sdc_guard.ops._symmetry import OUTERMOST
from sdc_guard.records import OpCall, Pattern, Spread, Worst


def reduced(
    plan: Plan,
    call: BoundCall,
    held: tuple[Tensor, ...],
    expected: tuple[Tensor | None, ...],
    ruling: Ruling,
) -> tuple[BoundCall, tuple[Tensor | None, ...], tuple[Tensor | None, ...]] | None:
    """The call narrowed to the wrong elements along every axis that a reference may cut: of a large
    product only the rows and columns needed."""
    if not ruling.wrong.any():
        return None
    results: tuple[tuple[Tensor | None, ...], ...] = (held, expected)
    labels = plan.axes.outputs[ruling.output]
    movable = [x for x in labels if x != FIXED]
    for label in plan.spec.window:
        if label == OUTERMOST and movable:
            label = movable[0]
        if label not in labels:
            continue
        rows = np.argwhere(ruling.wrong)[:, labels.index(label)]
        start, length = int(rows.min()), int(rows.max() - rows.min() + 1)
        call = narrow_call(call, plan.axes, label, start, length)
        results = tuple(
            tuple(
                None if t is None else narrow(t, plan.axes.outputs[i], label, start, length)
                for i, t in enumerate(group)
            )
            for group in results
        )
    return call, results[0], results[1]


def describe(
    call: BoundCall, held: tuple[Tensor, ...], watch: Watch, plan: Plan, step: int, origin: Origin
) -> OpCall:
    """The call as a record: operands and results by their metadata, other arguments as text."""
    names = call.form.argument_names
    operands = tuple(
        tensor_meta(names[p[0]] + (f"[{p[1]}]" if len(p) > 1 else ""), t) for p, t in call.tensors()
    )
    scalars = ", ".join(
        f"{n}={v!r}"
        for n, v in zip(names, call.args, strict=True)
        if v is not None
        and not isinstance(v, Tensor)
        and not (isinstance(v, (list, tuple)) and any(isinstance(x, Tensor) for x in v))
    )
    return OpCall(
        op=call.form.name,
        call_index=watch.call_index,
        step=step,
        phase=origin.phase,
        module=origin.module,
        source=origin.source,
        operands=operands,
        outputs=tuple(tensor_meta(f"out[{i}]", t) for i, t in enumerate(held) if t is not None),
        arguments=scalars[:500],
        flops=plan.flops,
        num_threads=torch.get_num_threads(),
    )


def message(ruling: Ruling, op_call: OpCall, worst: Worst | None) -> str:
    """One line: verdict, op, place, how many elements, the worst one, and why."""
    assert ruling.verdict is not None
    module = "" if op_call.module == "?" else f" at {op_call.module}"
    head = f"{ruling.verdict.value} in {op_call.op}{module} ({op_call.source})"
    num_wrong = int(np.count_nonzero(ruling.wrong))
    if worst is None:
        return f"{head}: {ruling.reason}"
    index = ", ".join(map(str, worst.index))
    if not ruling.held_is_wrong:
        return (
            f"{head}, in a recomputation only: [{index}] came out {worst.expected.repr}, the "
            f"result in use has {worst.got.repr}: {ruling.reason}"
        )
    wanted = f", expected {worst.expected.repr}" if ruling.expected is not None else ""
    return (
        f"{head}: {num_wrong} of {ruling.wrong.size} elements; [{index}] is "
        f"{worst.got.repr}{wanted}: {ruling.reason}"
    )


def places(
    ruling: Ruling, held: tuple[Tensor, ...], frame: Frame | None
) -> tuple[Worst | None, Pattern | None, Spread | None]:
    """The worst element and the pattern of the wrong ones, in the whole result, and what they have
    in common, in the part that was looked at."""
    output, pattern = ruling.output, pattern_of(ruling.wrong)
    seen = (held if frame is None else frame.view(held))[output]
    worst = worst_element(
        seen, output, ruling.wrong, ruling.expected, ruling.limit, ruling.formula, ruling.exceeds)
    spread = spread_of(seen, ruling.wrong, ruling.expected)
    if frame is None:
        return worst, pattern, spread
    return *in_full(worst, pattern, frame.offset(output), held[output].numel()), spread
