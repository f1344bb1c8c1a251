"""Findings and coverage as plain text for a terminal or a log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sdc_guard.document.text import called_as, module_name
from sdc_guard.records import Attribution, Coverage, Finding, OpCoverage, Pattern, Verdict, Worst

MAX_FINDINGS = 10
MAX_OPS = 12
INDENT = "  "


def render_finding(finding: Finding) -> str:
    """One finding as a block of lines: what, where, how far off, who made it, how to repeat it."""
    lines = [headline(finding)]
    if finding.pattern is not None or not called_as(finding):
        lines[0] += f": {extent(finding.pattern)}"
    if finding.worst is not None:
        lines.append(INDENT + worst_line(finding.worst))
    elif called_as(finding):
        lines.append(INDENT + finding.message)
    lines.append(f"{INDENT}witness: {finding.witness}"
                 + (f" ({finding.relation})" if finding.relation else ""))
    lines.append(f"{INDENT}cause:   {cause_line(finding.attribution)}")
    if not finding.held_is_wrong:
        lines.append(f"{INDENT}note:    the result in use is the right one; a recomputation was "
                     "wrong")
    if finding.repeats > 1:
        lines.append(f"{INDENT}repeats: {finding.repeats} findings of this kind")
    if finding.evidence.replay_command:
        lines.append(f"{INDENT}replay:  {finding.evidence.replay_command}")
    elif finding.evidence.note:
        lines.append(f"{INDENT}no bundle: {finding.evidence.note}")
    return "\n".join(lines)


def headline(finding: Finding) -> str:
    """``CORRUPTION in aten.sum.dim_IntList at step 41, blocks.2.mlp.down (model.py:57)``; of a hunt
    ``CORRUPTION in aten.sum.dim_IntList, forward of torch.sum``."""
    function = called_as(finding)
    if function:
        return (f"{finding.verdict.value.upper()} in {finding.op}, {finding.call.phase}"
                + (f" of {function}" if function != finding.op else ""))
    place = f"{module_name(finding.module)} ({short_source(finding.source)})"
    rank = f", rank {finding.rank}" if finding.rank else ""
    return (f"{finding.verdict.value.upper()} in {finding.op} at step {finding.step}, "
            f"{finding.call.phase} of {place}{rank}")


def short_source(source: str) -> str:
    """``model.py:57`` for ``/project/model.py:57``; ``unknown`` for an empty source."""
    return source.rpartition("/")[2] or "unknown"


def extent(pattern: Pattern | None) -> str:
    """How many elements are wrong and where they lie."""
    if pattern is None:
        return "no element can be named"
    text = f"{pattern.num_wrong} of {pattern.num_elements} elements wrong"
    if pattern.num_wrong > 1 and pattern.box_low:
        ranges = (f"{low}" if low == high else f"{low}..{high}"
                  for low, high in zip(pattern.box_low, pattern.box_high, strict=False))
        text += f" in [{', '.join(ranges)}]"
        if pattern.flat_stride is not None and pattern.flat_stride > 1:
            text += f", every {pattern.flat_stride} elements"
    return text


def worst_line(worst: Worst) -> str:
    """Got, expected, distance and limit at the element that is most wrong."""
    index = ", ".join(map(str, worst.index))
    other = f"{worst.expected.dtype} " if worst.expected.dtype != worst.got.dtype else ""
    text = (f"worst [{index}]: got {worst.got.repr} ({worst.got.bits}), expected "
            f"{worst.expected.repr} ({other}{worst.expected.bits}), {distance(worst)} off")
    if worst.bound is not None:
        text += f"; {worst.bound.kind} bound {worst.bound.limit:.3g}"
        if worst.bound.formula:
            text += f" = {worst.bound.formula}"
    return text


def distance(worst: Worst) -> str:
    """In ulps; where they are not counted, as for integers, the error itself."""
    return worst.error.repr if worst.error_ulps < 0 else ulps(worst.error_ulps)


def ulps(count: float) -> str:
    """``3 ulps``, ``3.1e+06 ulps``, or words where the distance is no number."""
    if math.isnan(count):
        return "an undefined number of ulps"
    if math.isinf(count):
        return "infinitely many ulps"
    number = f"{count:.0f}" if count == int(count) and count < 1e5 else f"{count:.2g}"
    return f"{number} ulp" if number == "1" else f"{number} ulps"


def cause_line(attribution: Attribution) -> str:
    """The cause with the votes behind it, counted per place."""
    text = attribution.cause.value
    if attribution.place:
        text += f" at {attribution.place}"
    votes = _votes(attribution)
    if votes:
        text += f" ({votes})"
    return f"{text}; {attribution.reason}" if attribution.reason else text


def _votes(attribution: Attribution) -> str:
    """``identical call: 6 of 6 wrong again at 2 places; recomputed otherwise: 0 of 4``."""
    parts = []
    for identical, label in ((True, "the identical call"), (False, "other recomputations")):
        votes = [v for v in attribution.votes if v.identical is identical]
        if votes:
            held = sum(v.result == "held" for v in votes)
            places = len({v.place for v in votes})
            where = f" at {places} places" if identical and places > 1 else ""
            parts.append(f"{label}: {held} of {len(votes)} gave the same result{where}")
    return ", ".join(parts)


def render_summary(
    findings: Sequence[Finding], coverage: Coverage, *, max_findings: int = MAX_FINDINGS
) -> str:
    """Verdicts, findings, coverage with what was not tested, and overhead, as text.

    Nothing found is never called clean without the share that was checked beside it.
    """
    lines = [_verdict_line(findings, coverage)]
    for finding in sorted(findings, key=_severity)[:max_findings]:
        lines += ["", render_finding(finding)]
    if len(findings) > max_findings:
        lines += ["", f"and {len(findings) - max_findings} more findings; the event log has all"]
    return "\n".join([*lines, "", *coverage_lines(coverage)])


def _severity(finding: Finding) -> tuple[int, int]:
    return list(Verdict).index(finding.verdict), finding.step


def _verdict_line(findings: Sequence[Finding], coverage: Coverage) -> str:
    if coverage.calls_checked == 0 and not findings:
        return "NOT TESTED: no call was checked"
    counts: Counter[Verdict] = Counter()
    for finding in findings:
        counts[finding.verdict] += finding.repeats
    checked = (f"{coverage.calls_checked} of {coverage.calls} calls checked "
               f"({coverage.call_share:.1%})")
    if coverage.steps_unwatched:
        share = coverage.call_share * coverage.watched_share
        checked += (f", {coverage.steps_unwatched} of {coverage.steps} steps not watched: about "
                    f"{100 * share:.2g} % of all calls")
    if not counts:
        return f"no divergence in what was checked: {checked}"
    found = ", ".join(f"{counts[v]} {v.value}" for v in Verdict if counts[v])
    return f"FOUND {found}; {checked}"


def coverage_lines(coverage: Coverage) -> list[str]:
    """Shares checked, the ops with the most unchecked calls, gaps, dead witnesses, overhead."""
    lines = [
        f"checked   {coverage.call_share:.1%} of {coverage.calls} calls, "
        f"{share(coverage.elements_checked, coverage.elements):.1%} of elements, "
        f"{coverage.flop_share:.1%} of FLOPs, in {coverage.steps} steps",
        f"overhead  {coverage.overhead_share:.2%} ({coverage.overhead_s:.2f} s of "
        f"{coverage.elapsed_s:.2f} s)",
    ]
    if coverage.steps_skipped:
        lines.append(f"skipped   {coverage.steps_skipped} optimizer steps were not applied")
    if coverage.guard_errors:
        lines.append(f"errors    {coverage.guard_errors} failures inside the guard; training went "
                     "on, see the event log")
    unchecked = sorted((op for op in coverage.ops if op.calls > op.calls_checked),
                       key=lambda op: (op.calls_checked - op.calls, op.op))
    lines += [f"not checked  {_unchecked(op)}" for op in unchecked[:MAX_OPS]]
    if len(unchecked) > MAX_OPS:
        rest = unchecked[MAX_OPS:]
        num_calls = sum(op.calls - op.calls_checked for op in rest)
        lines.append(f"not checked  {num_calls} calls of {len(rest)} more ops")
    lines += [f"gap       {gap}" for gap in coverage.gaps]
    lines += [f"dead      the witness {witness} failed its self-test and was not used"
              for witness in coverage.dead_witnesses]
    lines += [f"refused   {relation}" for relation in coverage.refused_relations]
    return lines


def _unchecked(op: OpCoverage) -> str:
    reasons = "; ".join(f"{reason} {count}" for reason, count in sorted(op.not_tested.items()))
    return (f"{op.op}: {op.calls - op.calls_checked} of {op.calls} calls"
            + (f" ({reasons})" if reasons else ""))


def share(part: float, whole: float) -> float:
    """``part / whole``, 0 where there is no whole."""
    return part / whole if whole else 0.0

