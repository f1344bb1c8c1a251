"""The first screen: is it bad, what, where, since when; what was proved and what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sdc_guard.document.exits import MEANINGS as EXIT_MEANINGS
from sdc_guard.document.schema import Judgement, Report, Sweep
from sdc_guard.document.verdicts import CLEAN, MEANINGS, SEVERITY
from sdc_guard.render.page.groups import HUNT, Group, first_entry, found_at
from sdc_guard.render.page.text import counted, duration, listed, percent, short_op
from sdc_guard.render.swept import (
    case_of,
    compact,
    facts_text,
    power_of,
    quantity,
    swept_cells,
    weak_passes,
    words,
)

NOT_TESTED = "not tested"
MAX_GAPS = 4
_OF_AN_OPERATOR = ("aten.", "c10d.")
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Meter:
    """A share with its name; ``share`` is in [0, 1], or None where there is nothing to share."""

    name: str
    value: str
    share: float | None
    note: str


@dataclass(frozen=True)
class Banner:
    """``verdict`` chooses colour and glyph; ``facts`` are (question, answer lines)."""

    verdict: str
    headline: str
    meaning: str
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    replay: str
    meters: tuple[Meter, ...]
    proves: tuple[str, ...]
    leaves_open: tuple[str, ...]
    judgement: Judgement | None
    exit_meaning: str
    states: dict[str, int]


def banner_of(report: Report, groups: Sequence[Group]) -> Banner:
    """The banner; ``groups`` as :func:`sdc_guard.render.page.groups.groups_of` orders them."""
    verdict, headline, meaning = _verdict(report, groups)
    found = [g for g in groups if g.verdict != NOT_TESTED]
    judgement = report.judgement
    states = Counter(judgement.states.values()) if judgement else Counter[str]()
    return Banner(
        verdict=verdict, headline=headline, meaning=meaning,
        facts=_facts(report, found) if found else _clean_facts(report),
        replay=found[0].finding.evidence.replay_command if found else "",
        meters=_meters(report), proves=_proves(report, verdict),
        leaves_open=_leaves_open(report), judgement=judgement,
        exit_meaning=EXIT_MEANINGS.get(judgement.exit_code, "") if judgement else "",
        states={word: states[word] for word in ("new", "known", "expired") if states[word]})


def is_checked(report: Report) -> bool:
    """Whether anything was tested at all."""
    return report.calls_checked > 0 or any(c.checks for c in report.cells)


def _verdict(report: Report, groups: Sequence[Group]) -> tuple[str, str, str]:
    found = [g for g in groups if g.verdict != NOT_TESTED]
    if not found:
        open_cells = [c for c in report.cells if c.verdict not in (CLEAN, NOT_TESTED)]
        if open_cells:
            worst = min((c.verdict for c in open_cells), key=_rank)
            return worst, (f"{worst.capitalize()} in {counted(len(open_cells), 'test')}, no "
                           "finding was recorded"), MEANINGS.get(worst, "")
        lost = sum(not run.is_complete for run in report.runs)
        if lost and any(p.calls_checked for run in report.runs for p in run.timeline[-1:]):
            return "inconclusive", (
                f"No divergence seen, but {lost} of {counted(len(report.runs), 'run')} did not end "
                "in order"), "What was checked after its log ends, and in all, is not known."
        if lost and not is_checked(report):
            return "inconclusive", (
                f"Nothing known: {lost} of {counted(len(report.runs), 'run')} did not end in order"
            ), "What was checked, if anything, its log does not tell. Not checked is never clean."
        if not is_checked(report):
            return NOT_TESTED, "Not tested: nothing was checked", (
                "This says nothing about the numbers. Not checked is never clean.")
        share = percent(report.calls_checked, report.calls)
        seen = f": {share} of the calls" if report.calls else ""
        if report.steps_unwatched:
            seen = (f": about {percent(report.call_share, 1)} of all calls"
                    if report.call_share > 0.001 else ": less than 0.1\u00a0% of all calls")
        what = "tests on these units" if report.sweep is not None else "checked calls"
        return CLEAN, f"No divergence in what was checked{seen}", (
            f"Clean holds for the {what} alone; the rest is counted below.")
    verdict = found[0].verdict
    same = [g for g in found if g.verdict == verdict]
    ops = list(dict.fromkeys(short_op(g.finding.op) for g in same))
    number = sum(g.verdicts.get(verdict, 0) for g in same)
    is_wrong = verdict == "corruption" and all(g.finding.held_is_wrong for g in same)
    noun = "wrong result" if is_wrong else "finding"
    headline = f"{verdict.capitalize()}: {counted(number, noun)} in {listed(ops, 3)}"
    if all(g.is_swept for g in same):
        places = sorted({g.finding.attribution.place for g in same} - {""})
        places = places or sorted({unit for g in same for unit in g.units})
        more = f" and {counted(len(places) - 3, 'more unit')}" if len(places) > 3 else ""
        headline += f" on {'; '.join(places[:3])}{more}"
    if all(g.state == "known" for g in found):
        headline = f"Known {headline[0].lower()}{headline[1:]}"
    return verdict, headline, MEANINGS[verdict]


def _rank(verdict: str) -> int:
    return SEVERITY.index(verdict) if verdict in SEVERITY else len(SEVERITY)


def _facts(report: Report, found: Sequence[Group]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    group = found[0]
    finding, worst = group.finding, group.worst
    phase = f", {finding.call.phase}" if finding.call.phase else ""
    what = [f"{finding.op}{phase}", *([group.extent] if group.extent else [])]
    if worst is not None:
        what.append(f"got {worst.worst.got.repr}, expected {worst.worst.expected.repr}: "
                    f"{worst.distance} off")
    where = [group.module, group.place or "no source line",
             f"{listed(group.units, 2) or finding.device}{_ranks(report, group)}"]
    if group.is_swept:
        where = [listed(group.units, 3), *_unit_lines(report, group)]
    elif group.is_hunted:
        where[:2] = [f"called as {group.place}"]
    elif finding.module in ("", "?"):
        where[:2] = where[1::-1]  # the line says more than that no module is known
    if len(found) > 1:
        what.append(f"and {counted(len(found) - 1, 'more kind')} of finding below")
    is_called = group.is_hunted or group.is_swept
    when = ("Found by", _found_by(report, group)) if is_called else ("Since", _since(report))
    return (("What", tuple(what)), ("Where", tuple(where)), when,
            ("Who made it", _cause(group)))


def _found_by(report: Report, group: Group) -> tuple[str, ...]:
    """The oracle, how often the call diverged again, and the hunt."""
    lead = group.lead
    run = next((r for r in report.runs if r.id == lead.run), None)
    lines = [f"{'test' if group.is_swept else 'oracle'} {lead.test}"]
    if lead.tried:
        lines.append(f"{lead.wrong} of {lead.tried} repetitions "
                     f"{'wrong' if group.is_swept else 'diverged'}")
    if group.is_swept:
        lines.append(f"oracle {group.finding.witness}, case {case_of(lead)}")
    elif run is not None:
        seed = f", seed {run.seed}" if run.seed is not None else ""
        lines.append(f"hunt of {run.steps:,} calls{seed}")
    return tuple(lines)


def _unit_lines(report: Report, group: Group) -> list[str]:
    """What is known of the one unit that failed."""
    units = {u.id: u for u in report.sweep.units} if report.sweep is not None else {}
    unit = units.get(group.lead.unit)
    if unit is None or len(group.units) > 1:
        return []
    return [facts_text({name: value for name, value in unit.facts.items() if name != "host"})]


def _ranks(report: Report, group: Group) -> str:
    """``, rank 3`` where the runs have several ranks."""
    if len({run.rank for run in report.runs}) < 2:
        return ""
    ranks = sorted({entry.finding.rank for entry in group.entries})
    return f", {'rank' if len(ranks) == 1 else 'ranks'} {listed([str(r) for r in ranks], 4)}"


def _since(report: Report) -> tuple[str, ...]:
    first = first_entry(report)
    if first is None:
        return ("not known",)
    entry, run = first
    steps = run.steps if run is not None else 0
    lines = [f"step {entry.finding.step:,}" + (f" of {steps:,}" if steps else ""),
             f"{duration(entry.time_s)} into the run"]
    moment = found_at(entry, run)
    return tuple([*lines, moment] if moment else lines)


def _cause(group: Group) -> tuple[str, ...]:
    attribution = group.finding.attribution
    lines = [attribution.cause.value + (f" at {attribution.place}" if attribution.place else "")]
    votes = [v for v in attribution.votes if v.identical and v.result != "failed"]
    if votes and not group.is_swept:
        held = sum(v.result == "held" for v in votes)
        places = len({v.place for v in votes})
        lines.append(f"the identical call gave the same result {held} of {len(votes)} times at "
                     f"{counted(places, 'place')}")
    if attribution.reason:
        lines.append(attribution.reason)
    return tuple(lines)


def _clean_facts(report: Report) -> tuple[tuple[str, tuple[str, ...]], ...]:
    runs = report.runs
    if report.sweep is not None and not report.coverages:
        return _sweep_facts(report, report.sweep)
    ran = [counted(len(runs), "process", "processes") if runs else "no run can be read"]
    if runs:
        ran.append(f"{duration(max(r.elapsed_s for r in runs))}, "
                   f"{counted(max(r.steps for r in runs), 'step')}")
        budgets = sorted({r.budget for r in runs} - {""})
        ran += [f"budget {listed(budgets, 3)}"] if budgets else []
    torches = sorted({str(r.environment.get("torch", "")) for r in runs} - {""})
    on = [listed(sorted({r.host for r in runs if r.host}), 3) or "no host known"]
    on += [f"torch {listed(torches, 3)}"] if torches else []
    tests = Counter(c.verdict for c in report.cells)
    order = sorted(tests, key=lambda word: (word != CLEAN, word))
    tested = [f"{tests[word]:,} {word}" for word in order]
    checks = Counter[str]()
    for op in (op for c in report.coverages for op in c.ops):
        checks.update(op.witnesses)
    judged = [f"{name}: {counted(count, 'check')}" for name, count in checks.most_common(4)]
    return (("What ran", tuple(ran)), ("On", tuple(on)), ("Operators and tests", tuple(
        tested or ["none"])), ("Judged by", tuple(judged or ["no witness"])))


def _sweep_facts(report: Report, sweep: Sweep) -> tuple[tuple[str, tuple[str, ...]], ...]:
    cells = swept_cells(report)
    kinds = Counter(unit.kind for unit in sweep.units)
    hosts = sorted({run.host for run in report.runs if run.host})
    powers = Counter(c.oracle for c in cells if c.verdict == CLEAN)
    elapsed_s = max((run.elapsed_s for run in report.runs), default=0.0)
    return (
        ("What ran", (counted(len({c.test for c in cells if c.checks}), "test"),
                      f"{duration(elapsed_s)}, seed {sweep.seed}")),
        ("On", (", ".join(counted(n, kind) for kind, n in kinds.items()) or "no unit",
                listed(hosts, 3) or "no host known")),
        ("Tests and units", tuple(f"{n:,} {word}" for word, n in words(cells).items())
         or ("none",)),
        ("Passes rest on", tuple(f"{oracle or 'nothing'}: {counted(n, 'pass', 'passes')}"
                                 for oracle, n in powers.most_common(4)) or ("there is none",)))


def _meters(report: Report) -> tuple[Meter, ...]:
    coverages = report.coverages
    meters: list[Meter] = []
    if coverages:
        is_hunt = _is_hunt(report)
        for name, part, whole in (
            ("calls checked", report.calls_checked, report.calls),
            ("FLOPs checked", report.flops_checked, report.flops)):
            if name == "FLOPs checked" and is_hunt:
                return tuple(meters)  # it counts calls, and has neither steps nor overhead
            meters.append(Meter(name, percent(part, whole), part / whole if whole else None,
                                f"{_big(part)} of {_big(whole)}"))
        elapsed_s = sum(c.elapsed_s for c in coverages)
        overhead_s = sum(c.overhead_s for c in coverages)
        meters.append(Meter(
            "overhead", percent(overhead_s, elapsed_s - overhead_s),
            None, f"{duration(overhead_s)} of checks beside {duration(elapsed_s - overhead_s)}"))
        skipped = sum(c.steps_skipped for c in coverages)
        meters.append(Meter(
            "steps", f"{max(c.steps for c in coverages):,}", None,
            (f"{skipped:,} not applied" if skipped else "all applied")
            + (f"; {report.steps_unwatched:,} not watched" if report.steps_unwatched else "")))
    elif report.cells:
        tested = [c for c in report.cells if c.verdict != NOT_TESTED]
        meters.append(Meter("tests run", percent(len(tested), len(report.cells)),
                            len(tested) / len(report.cells),
                            f"{len(tested):,} of {len(report.cells):,}, on "
                            f"{counted(len({c.unit for c in report.cells}), 'unit')}"))
    if report.sweep is not None:
        meters.append(Meter("checked", compact(report.sweep.checks), None,
                            f"elements, {quantity(report.sweep.num_bytes, 'B')}, "
                            f"{quantity(report.sweep.flops, 'FLOP')}"))
    return tuple(meters)


def _big(count: int) -> str:
    for size, unit in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if count >= 10 * size or (count >= size and size > 10**6):
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def _proves(report: Report, verdict: str) -> tuple[str, ...]:
    checked = report.calls_checked
    if not checked and report.sweep is not None:
        passed = [c for c in swept_cells(report) if c.verdict == CLEAN]
        return tuple(f"{counted(sum(c.oracle == oracle for c in passed), 'pass', 'passes')} by "
                     f"{power_of(oracle)}." for oracle in dict.fromkeys(c.oracle for c in passed)
                     )[:MAX_GAPS] or ("Nothing.",)
    if not checked:
        tests = sum(1 for c in report.cells if c.verdict == CLEAN)
        return (f"{counted(tests, 'test')} ended clean.",) if tests else ("Nothing.",)
    lines = [f"Each of the {checked:,} checked calls was judged by one witness or more: against a "
             "proved rounding bound, or by a relation that holds bit for bit."]
    if verdict == CLEAN:
        rate = 1 - (1 - _CONFIDENCE) ** (1 / checked)
        lines.append(
            f"If wrong calls fell evenly over all calls, fewer than 1 in {1 / rate:,.0f} is wrong "
            f"in a way that its witness would see ({100 * _CONFIDENCE:.0f}\u00a0% confidence)."
            if rate < 0.5 else
            f"{counted(checked, 'checked call')}: too few to say what share of all calls is right.")
    else:
        lines.append("What diverged was made again before it was written; a finding says how often "
                     "it came." if _is_hunt(report) else
                     "Every finding was confirmed on the live inputs before it was written.")
    return tuple(lines)


def _is_hunt(report: Report) -> bool:
    return bool(report.runs) and all(run.kind == HUNT for run in report.runs)


def _leaves_open(report: Report) -> tuple[str, ...]:
    lines = []
    unchecked = report.calls - report.calls_checked
    if unchecked:
        lines.append(f"{counted(unchecked, 'call')} not checked (reasons under coverage): not "
                     "checked is never clean.")
    if report.sweep is not None and not report.coverages:
        lines.append("A pass holds for the tests and the minutes that were run, and for no other "
                     "operator, shape or temperature: a unit that passed may still be faulty.")
        weak = weak_passes(swept_cells(report))
        if weak:
            lines.append(f"{counted(len(weak), 'pass', 'passes')} compared a unit with itself "
                         "alone.")
    else:
        lines.append("Errors smaller than the bounds, and faults before the first or after the "
                     "last checked call, are not seen.")
    lost = [r for r in report.runs if not r.is_complete]
    if lost:
        lines.append(f"{counted(len(lost), 'run')} did not end in order: what it checked in all is "
                     "not known.")
    gaps = list(dict.fromkeys(gap for c in report.coverages for gap in c.gaps))
    # What is not watched at all weighs more than a relation that an operator does not have.
    large = [gap for gap in gaps if not gap.startswith(_OF_AN_OPERATOR)][:MAX_GAPS]
    lines += [f"{gap[:1].upper()}{gap[1:]}." for gap in large]
    if len(gaps) > len(large):
        lines.append(f"{counted(len(gaps) - len(large), 'smaller gap')} listed under coverage.")
    dead = {w for c in report.coverages for w in c.dead_witnesses}
    if dead:
        lines.append(f"Witnesses that failed their self-test and were not used: "
                     f"{listed(sorted(dead), 4)}.")
    return tuple(lines)
