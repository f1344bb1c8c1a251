"""Metrics for node_exporter's textfile collector, with dcgm-exporter's names of labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Report, Run
from sdc_guard.render.metric import Labels, Metric, seconds_of
from sdc_guard.render.prometheus_sweep import sweep_metrics


def prometheus_text(report: Report) -> str:
    """The exposition format, version 0.0.4.

    ``Hostname`` and ``rank`` name the process; findings on a CUDA device carry ``gpu``, and
    ``UUID`` where the environment holds it, so that they join dcgm-exporter's series.
    """
    metrics = (*_metrics(report), *sweep_metrics(report))
    return "\n".join(line for metric in metrics for line in metric.lines()) + "\n"


def _metrics(report: Report) -> Iterable[Metric]:
    calls = Metric("sdc_guard_calls_total", "counter", "Operator calls seen.")
    checks = Metric("sdc_guard_checks_total", "counter", "Operator calls checked.")
    mismatches = Metric("sdc_guard_mismatches_total", "counter", "Findings by verdict.")
    overhead = Metric("sdc_guard_overhead_seconds_total", "counter", "Time spent in the guard.")
    elapsed = Metric("sdc_guard_elapsed_seconds_total", "counter", "Time the runs took.")
    errors = Metric("sdc_guard_guard_errors_total", "counter", "Failures inside the guard.")
    complete = Metric("sdc_guard_runs_complete", "gauge", "Runs that ended in order.")
    runs = Metric("sdc_guard_runs", "gauge", "Runs in the report.")
    ratio = Metric("sdc_guard_coverage_ratio", "gauge", "Share of the calls that was checked.")
    states = Metric("sdc_guard_divergences", "gauge", "Distinct divergences by state.")
    code = Metric("sdc_guard_exit_code", "gauge", "0 clean, 1 divergence, 3 inconclusive, "
                                                   "5 nothing tested.")
    created = Metric("sdc_guard_report_timestamp_seconds", "gauge", "When the report was made.")
    totals: dict[Labels, tuple[int, int]] = {}
    for run in report.runs:
        labels = _process(run)
        complete.add(run.is_complete, labels)
        runs.add(1, labels)
        elapsed.add(run.elapsed_s, labels)
        if run.coverage is None:
            continue
        seen, checked = totals.get(labels, (0, 0))
        totals[labels] = seen + run.coverage.calls, checked + run.coverage.calls_checked
        calls.add(run.coverage.calls, labels)
        checks.add(run.coverage.calls_checked, labels)
        overhead.add(run.coverage.overhead_s, labels)
        errors.add(run.coverage.guard_errors, labels)
    for labels, (seen, checked) in totals.items():
        ratio.add(checked / seen if seen else 0.0, labels)
    by_id = {run.id: run for run in report.runs}
    for entry in report.findings:
        run_of = by_id.get(entry.run)
        mismatches.add(entry.finding.repeats, (
            *(_process(run_of) if run_of is not None else ()),
            *_device(entry.finding.device, run_of), ("verdict", entry.verdict.value)))
    for state in ("new", "known", "expired"):
        states.add(0, (("state", state),))
    for divergence in divergences(report):
        states.add(1, (("state", divergence.state),))
    if report.judgement is not None:
        code.add(report.judgement.exit_code)
    created_s = seconds_of(report.created_utc)
    if created_s is not None:
        created.add(created_s)
    return (runs, complete, calls, checks, ratio, mismatches, states, overhead, elapsed, errors,
            code, created)


def _process(run: Run) -> Labels:
    return ("Hostname", run.host), ("rank", str(run.rank))


def _device(device: str, run: Run | None) -> Labels:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return (("device", kind),)
    labels = (("device", kind), ("gpu", index or "0"))
    uuid = _uuid(run.environment if run is not None else {}, index or "0")
    return (*labels, ("UUID", uuid)) if uuid else labels


def _uuid(environment: dict[str, Any], index: str) -> str:
    gpus = environment.get("gpus")
    if not isinstance(gpus, list) or not index.isdecimal() or int(index) >= len(gpus):
        return ""
    gpu = gpus[int(index)]
    return str(gpu.get("uuid") or "") if isinstance(gpu, dict) else ""
