"""A divergence in words that every format shares: its title, its lines, its state."""

from __future__ import annotations

from sdc_guard.document.divergences import KNOWN, Divergence
from sdc_guard.document.schema import Cell, Entry, Report
from sdc_guard.document.text import counted, one_line, printable, shortened
from sdc_guard.document.verdicts import CLEAN, SEVERITY
from sdc_guard.render.console import render_finding
from sdc_guard.render.swept import failure_text, is_swept, swept_cells, totals

MAX_FINDING_CHARS = 4000
MAX_TITLE_CHARS = 200
MAX_LINES = 5


def title(divergence: Divergence) -> str:
    """``corruption in aten.sum.dim_IntList (blocks.0.mlp.down)``, on one line."""
    lead = divergence.lead
    finding = lead.finding
    if is_swept(lead):
        others = len({e.unit for e in divergence.entries}) - 1
        where = f" on {lead.unit}" + (f" and {counted(others, 'more unit')}" if others else "")
    else:
        where = f" ({finding.module})" if finding.module not in ("", "?") else ""
    return shortened(one_line(f"{divergence.verdict.value} in {finding.op}{where}"),
                     MAX_TITLE_CHARS)


def state_words(divergence: Divergence) -> str:
    """``new``, ``known to the baseline``, ``known, but its line has expired``, and how often."""
    words = {"new": "new", KNOWN: "known to the baseline"}.get(
        divergence.state, "known, but its line in the baseline has expired")
    num = divergence.num_findings
    return words if num == 1 else f"{words}; {counted(num, 'finding')}"


def finding_text(entry: Entry) -> str:
    """A finding in full, as printable lines."""
    text = failure_text(entry) if is_swept(entry) else render_finding(entry.finding)
    if entry.tried and not is_swept(entry):
        text += f"\n  wrong in {entry.wrong} of {entry.tried} identical calls"
    return shortened(printable(f"{text}\n  id:      {entry.id} {entry.code}"), MAX_FINDING_CHARS)


def divergence_text(divergence: Divergence) -> str:
    """The most severe finding in full, and from which other lines the same was met."""
    lead = divergence.lead.location
    others = dict.fromkeys(
        f"{e.location.file}:{e.location.line}" for e in divergence.entries
        if e.location is not None and e.location != lead)
    text = finding_text(divergence.lead)
    if others:
        text += f"\n  also at: {one_line(', '.join([*others][:MAX_LINES]))}"
    if len(others) > MAX_LINES:
        text += f" and {counted(len(others) - MAX_LINES, 'more line')}"
    return text


def judgement_lines(report: Report) -> list[str]:
    """``exit code 1, divergence`` and the reasons, each on a line; empty without a judgement."""
    judged = report.judgement
    if judged is None:
        return []
    lines = [f"exit code {judged.exit_code}, {judged.status}"]
    lines += [f"  {one_line(reason)}" for reason in judged.reasons]
    if judged.baseline:
        lines.append(f"  baseline {one_line(judged.baseline)}")
    for word, items in (("fixed", judged.fixed), ("stale", judged.stale),
                        ("carried", judged.carried)):
        if items:
            lines.append(f"  {word} {len(items)}")
    return lines


def coverage_line(report: Report) -> str:
    """``570 of 600 calls checked (95.0 %), 94.1 % of FLOPs``."""
    if not report.calls and report.sweep is not None:
        return totals(report.sweep)
    if not report.calls:
        return ("what was checked is not known" if any(not r.is_complete for r in report.runs)
                else "no call was seen")
    flops = (f", {100 * report.flops_checked / report.flops:.1f} % of FLOPs"
             if report.flops else "")
    unwatched = (f"; {counted(report.steps_unwatched, 'step')} not watched, so "
                 f"{_share_of_all(report)} of all calls" if report.steps_unwatched else "")
    return (f"{report.calls_checked} of {report.calls} calls checked "
            f"({100 * report.calls_checked / report.calls:.1f} %){flops}{unwatched}")


def _share_of_all(report: Report) -> str:
    """``about 2.1 %``: the checked share where unwatched steps count; never 0 where some were."""
    percentage = 100 * report.call_share
    return "less than 0.1 %" if percentage < 0.1 else f"about {percentage:.2g} %"


def not_tested(report: Report) -> list[tuple[str, int, str]]:
    """Each operator with calls that were not checked: its name, how many, and the reasons."""
    calls: dict[str, int] = {}
    reasons: dict[str, dict[str, int]] = {}
    for coverage in report.coverages:
        for op in coverage.ops:
            if op.calls > op.calls_checked:
                calls[op.op] = calls.get(op.op, 0) + op.calls - op.calls_checked
                mine = reasons.setdefault(op.op, {})
                for reason, count in op.not_tested.items():
                    mine[reason] = mine.get(reason, 0) + count
    rows = [(one_line(op), count,
             one_line("; ".join(f"{r} {n}" for r, n in sorted(reasons[op].items()))))
            for op, count in calls.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def tests(report: Report) -> list[Cell]:
    """The tests of a hunt or a bench, worst first; none of a guard's run, whose operators have
    coverage, and none of a sweep, whose tests have rows of their own."""
    if report.coverages:
        return []
    swept = set(swept_cells(report))
    order = (*SEVERITY, CLEAN)
    return sorted((c for c in report.cells if c not in swept), key=lambda c: (
        order.index(c.verdict) if c.verdict in order else -1, c.unit, c.test))


def test_words(cell: Cell) -> str:
    """``missed: found 13 of 14 injected faults``."""
    return one_line(f"{cell.word}: {cell.reason}" if cell.reason else cell.word)


def gaps(report: Report) -> list[str]:
    """What stands beside every verdict: gaps, dead witnesses, refused relations, problems, cuts."""
    lines: dict[str, None] = {}
    for coverage in report.coverages:
        lines.update(dict.fromkeys(f"gap: {gap}" for gap in coverage.gaps))
        lines.update(dict.fromkeys(f"the witness {w} failed its self-test and was not used"
                                   for w in coverage.dead_witnesses))
        lines.update(dict.fromkeys(f"refused: {r}" for r in coverage.refused_relations))
    for run in report.runs:
        lines.update(dict.fromkeys(f"{run.id}: {problem}" for problem in run.problems))
    lines.update(dict.fromkeys(report.problems))
    lines.update(dict.fromkeys(f"{count} {what}" for what, count in report.cut.items()))
    return [one_line(line) for line in lines]
