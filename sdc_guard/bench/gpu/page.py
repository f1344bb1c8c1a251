"""``kernels.md``: the figures as a page, with ``not measured`` and the reason where there are
none."""

from __future__ import annotations

from collections.abc import Sequence

from sdc_guard.bench.gpu.asked import (
    NOT_MEASURED,
    Asked,
    asked,
    bandwidth_of,
    floor_ms,
    of_floor,
)
from sdc_guard.bench.gpu.figures import (
    FULL,
    CallCost,
    Clocks,
    Copy,
    Device,
    Figure,
    GpuFile,
    ProductCost,
    StepCost,
    Verdicts,
)
from sdc_guard.bench.gpu.steps import step_name
from sdc_guard.bench.gpu.watchers import PLAIN, WATCHERS
from sdc_guard.bench.results import Stamp
from sdc_guard.intervals import Interval


def render(contents: GpuFile) -> str:
    """The whole page, Markdown."""
    figures = {named.name: named.figure for named in contents.figures}
    parts = ["# Checks by Triton kernels, measured", _head(contents, figures)]
    if contents.device != "cuda" or contents.form != FULL:
        parts.append(f"**This is the {contents.form} form on {contents.device}: it shows that the "
                     "benchmark runs.  Its times say nothing about a GPU.**")
    parts += ["## What is asked", _asked(asked(contents)),
              "## Copy bandwidth", _copies(figures),
              "## Matrix products", _products(contents, figures),
              "## A training step", contents.model + ".", _steps(contents, figures),
              *_coverage(figures),
              "## Call by call", *_calls(figures),
              "## Doubts", _doubts(figures),
              "## Not measured", _missing(contents)]
    return "\n\n".join(parts) + "\n"


def _head(contents: GpuFile, figures: dict[str, Figure]) -> str:
    stamp: Stamp = contents.stamp
    device = next((f for f in figures.values() if isinstance(f, Device)), None)
    told = NOT_MEASURED if device is None else (
        f"{device.name}, capability {device.capability}, {device.num_multiprocessors} "
        f"multiprocessors, {device.memory_bytes / 2**30:.1f} GiB; torch {device.torch}, triton "
        f"{device.triton}, CUDA {device.cuda}, cuDNN {device.cudnn}")
    clocks = [f"- clocks after {f.after}: {f.text}"
              for f in figures.values() if isinstance(f, Clocks)]
    return "\n".join([
        *(f"- command: `{command}`" for command in stamp.commands),
        f"- commit: {', '.join(stamp.commits)} (`+`: with local changes); seed {stamp.seed}",
        f"- device: {told}",
        f"- host: {stamp.platform}, {stamp.processor}, {stamp.num_cores} cores, Python "
        f"{stamp.python}, numpy {stamp.numpy}; load {stamp.load:.1f}",
        f"- took {contents.elapsed_s:.0f} s of at most {contents.limit_s:.0f} s",
        *(clocks or ["- clocks: not measured"]),
        "- intervals are 95 %, of medians where nothing else is said; times are of the device's "
        "own events, those of whole steps of the host's clock",
    ])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return NOT_MEASURED
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _asked(limits: Sequence[Asked]) -> str:
    rows = []
    for limit in limits:
        show = _percent if limit.is_share else _times
        value = NOT_MEASURED if limit.value is None else show(limit.value)
        bound = f"{100 * limit.limit:g} %" if limit.is_share else f"{limit.limit:g}"
        rows.append([limit.what, f"at most {bound}", value, limit.verdict])
    return _table(["what", "asked", "measured", "verdict"], rows)


def _copies(figures: dict[str, Figure]) -> str:
    rows = [[name, str(f.num_rounds), _ms(f.time_ms), f"{f.bytes_per_s / 1e9:.1f}"]
            for name, f in figures.items() if isinstance(f, Copy)]
    return _table(["copy", "rounds", "ms", "GB/s read and written"], rows)


def _products(contents: GpuFile, figures: dict[str, Figure]) -> str:
    bandwidth = bandwidth_of(figures)
    rows = []
    for f in figures.values():
        if not isinstance(f, ProductCost):
            continue
        m, n, k = f.shape
        floors = of_floor(f, bandwidth)
        speed = 2e-9 * m * n * k / f.product_ms.value
        rows.append([
            f"{f.dtype} {m} x {n} x {k}", str(f.num_rounds), _ms(f.product_ms), f"{speed:.3g}",
            f"{_ms(f.check_ms)} = {_percent(f.check_ratio)}",
            NOT_MEASURED if floors is None else _times(floors),
            f"{_ms(f.remembered_ms)} = {_percent(f.remembered_ratio)}",
            f"{_ms(f.rerun_ms)} = {_percent(f.rerun_ratio)}", f"{f.host_ms.value:.3f}"])
    for missing in contents.missing:
        if missing.name.startswith("product "):
            rows.append([missing.name.removeprefix("product "), *[NOT_MEASURED] * 8])
    return _table(["product", "rounds", "product ms", "TFLOP/s", "check ms = share of product",
                   "check over floor", "check, weight remembered", "torch.equal(A @ B, C)",
                   "launch on the host ms"], rows)


def _steps(contents: GpuFile, figures: dict[str, Figure]) -> str:
    reasons = {missing.name: missing.reason for missing in contents.missing}
    rows = []
    for watcher in WATCHERS:
        f = figures.get(step_name(watcher))
        if not isinstance(f, StepCost):
            reason = reasons.get(step_name(watcher), "")
            rows.append([watcher, *[NOT_MEASURED] * 4, "", reason])
            continue
        share = f.seen.share()
        own = f.seen.own_overhead_share
        said = f"{f.seen.num_alarms} alarms, {f.seen.num_errors} errors" + (
            "" if own is None else f"; says itself {100 * own:.2f} %")
        rows.append([
            watcher, f"{f.num_rounds} x {f.steps_per_turn}", _ms(f.step_ms),
            "" if watcher == PLAIN else _times(f.ratio),
            "" if watcher == PLAIN else _times(f.total_ratio),
            "" if share is None else f"{100 * share:.2f} %", said if watcher != PLAIN else ""])
    return _table(["step", "rounds x steps", "ms per step", "median ratio", "ratio of totals",
                   "matrix product and reduction calls checked", "said"], rows)


def _coverage(figures: dict[str, Figure]) -> list[str]:
    parts = []
    for f in figures.values():
        if not isinstance(f, StepCost) or not f.seen.ops:
            continue
        rows = [[f"`{op.op}`", str(op.calls), str(op.calls_checked), _counts(op.witnesses),
                 _counts(op.not_tested)] for op in f.seen.ops if op.is_asked]
        others = [op for op in f.seen.ops if not op.is_asked]
        rows.append(["all other ops", str(sum(op.calls for op in others)),
                     str(sum(op.calls_checked for op in others)), "", ""])
        parts.append(f"Coverage, {f.watcher} ({f.description}):\n\n" + _table(
            ["op", "calls", "checked", "witnesses", "not tested"], rows))
        if f.seen.messages:
            parts.append("\n".join(f"- {message}" for message in f.seen.messages))
    return parts


def _calls(figures: dict[str, Figure]) -> list[str]:
    bandwidth = bandwidth_of(figures)
    found = [f for f in figures.values() if isinstance(f, CallCost)]
    found.sort(key=lambda f: -f.check_ms.value * max(f.calls_per_step, 1e-9))
    rows = []
    for f in found:
        floor = None if bandwidth is None else floor_ms(f.num_bytes, bandwidth)
        rows.append([
            f"`{f.op}`", f.operands, str(f.calls_per_step),
            "not repeated" if f.op_ms is None else _ms(f.op_ms), _ms(f.check_ms),
            f"{f.host_ms.value:.3f}", f"{f.num_bytes / 1e6:.1f}",
            NOT_MEASURED if floor is None else f"{f.check_ms.value / floor:.2f}",
            ", ".join(f.verdicts.witnesses)])
    parts = [_table(["op", "operands", "calls per step", "op ms", "check ms", "launch on the host "
                     "ms", "MB of operands and results", "check over floor", "witnesses"], rows)]
    plain = figures.get(step_name(PLAIN))
    if found and isinstance(plain, StepCost):
        device_ms = sum(f.calls_per_step * f.check_ms.value for f in found)
        host_ms = sum(f.calls_per_step * f.host_ms.value for f in found)
        parts.append(
            f"All checks of a step, added up: {device_ms:.2f} ms on the device, "
            f"{100 * device_ms / plain.step_ms.value:.1f} % of the plain step; {host_ms:.2f} ms of "
            "launching on the host.")
    return parts


def _doubts(figures: dict[str, Figure]) -> str:
    judged: list[tuple[str, Verdicts]] = [
        (name, f.verdicts) for name, f in figures.items()
        if isinstance(f, (CallCost, ProductCost))]
    if not judged:
        return NOT_MEASURED
    lines = [f"- {name}: {v.num_over} quantities over their limit, the worst "
             f"{v.worst_share:.3g} times" for name, v in judged if v.num_over]
    worst = max(v.worst_share for _, v in judged)
    return "\n".join(lines) or (
        f"None: no kernel doubts a result that nobody has broken, of {len(judged)} products and "
        f"calls.  The largest share of a limit was {worst:.3g}.")


def _missing(contents: GpuFile) -> str:
    by_reason: dict[str, list[str]] = {}
    for missing in contents.missing:
        by_reason.setdefault(missing.reason, []).append(missing.name)
    lines = []
    for reason, names in by_reason.items():
        lines += [f"- {reason}:", *(f"    - {name}" for name in names)]
    return "\n".join(lines) or "Nothing."


def _ms(interval: Interval) -> str:
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _times(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
