"""A sweep as the report document that every format is rendered from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sdc_guard.document.codes import code_of
from sdc_guard.document.fingerprint import fingerprint
from sdc_guard.document.schema import (
    SCHEMA_VERSION,
    Cell,
    Entry,
    Report,
    Run,
    SensorSample,
    Sweep,
    SweptDigest,
    SweptTest,
    SweptUnit,
)
from sdc_guard.document.verdicts import CLEAN, verdict_of
from sdc_guard.records import (
    Attribution,
    Evidence,
    Finding,
    OpCall,
    TensorMeta,
    Verdict,
)
from sdc_guard.sweep.declared import CORE, GPU, HOST
from sdc_guard.sweep.sweeping import Sweeping
from sdc_guard.sweep.tally import Count, Seen
from sdc_guard.sweep.units import Unit, host_name
from sdc_guard.sweep.words import AMBIGUOUS, FAIL, PASS
from sdc_guard.version import __version__

TOOL = "sweep"
REPLAY_S = 10
CONTRASTING = ("F1", "F6", "F7", "F12")
MAX_CONTRAST = 24


def document(sweeping: Sweeping, *, start_utc: str, command: str) -> Report:
    """The report as it stands; that of a sweep which goes on is partial."""
    host = host_name()
    is_complete = sweeping.is_complete and not sweeping.is_interrupted
    run = Run(
        id=run_id(host, start_utc, sweeping.asked.seed), kind=TOOL, rank=_rank(),
        pid=os.getpid(), host=host, start_utc=start_utc, source="",
        elapsed_s=sweeping.elapsed_s, is_complete=is_complete, seed=sweeping.asked.seed,
        script=command, steps=sweeping.round_number, environment=sweeping.environment,
        problems=tuple(sweeping.tally.problems))
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        title=f"sdc_guard: {command}", sources=(), runs=(run,),
        findings=tuple(_entries(sweeping, run)), cells=tuple(_cells(sweeping, host)),
        sweep=_sweep(sweeping, host, is_complete))


def run_id(host: str, start_utc: str, seed: int) -> str:
    """What tells this sweep from every other."""
    return f"{TOOL} {host} {start_utc} seed {seed}"


def _rank() -> int:
    name = "SLURM_PROCID" if "SLURM_STEP_NUM_TASKS" in os.environ else "RANK"
    text = os.environ.get("RANK", os.environ.get(name, "0"))
    return int(text) if text.isdecimal() else 0


def unit_id(host: str, unit: Unit) -> str:
    """``node-7, core 3``: unique in a fleet."""
    return f"{host}, {unit.name}" if unit.kind != HOST else f"{host}, all cores"


def _sweep(sweeping: Sweeping, host: str, is_complete: bool) -> Sweep:
    counts = list(sweeping.tally.counts.values())
    by_name = {unit.name: unit for unit in sweeping.asked.units}
    canaries: dict[str, str] = {}
    for count in counts:
        if canaries.get(count.test.name) in (None, "none"):
            canaries[count.test.name] = count.canary
        elif count.canary == "missed":
            canaries[count.test.name] = "missed"
    least = sorted((c for c in counts if not c.skip), key=lambda c: c.elapsed_s / c.test.dwell_s)
    return Sweep(
        seed=sweeping.asked.seed, budget_s=sweeping.asked.budget_s,
        units=tuple(SweptUnit(id=unit_id(host, u), kind=u.kind, name=u.name,
                              facts={"host": host, **u.facts}) for u in sweeping.asked.units),
        tests=tuple(SweptTest(
            name=t.name, family=t.family, oracles=tuple(o.value for o in t.oracles),
            blames=t.blames, dtypes=t.dtypes, proves=t.proves, cannot_prove=t.cannot_prove,
            dwell_s=t.dwell_s) for t in sweeping.asked.tests.values()),
        digests=tuple(SweptDigest(
            key=f"{key} | {_software(sweeping.environment, by_name[unit])}",
            unit=unit_id(host, by_name[unit]), digest=digest, test=test)
            for (unit, test, key), digest in sweeping.digests.items()),
        samples=tuple(SensorSample(time_s=s.time_s, unit=unit_id(host, by_name[s.unit]),
                                   readings=s.readings) for s in sweeping.samples),
        checks=sum(c.checks for c in counts), num_bytes=sum(c.num_bytes for c in counts),
        flops=sum(c.flops for c in counts), canaries=canaries, is_partial=not is_complete,
        cursor=least[0].test.name if least else "")


def _software(environment: dict[str, Any], unit: Unit) -> str:
    """What besides the case decides the bits: units are comparable where it is equal."""
    parts = [f"torch {environment.get('torch', '?')}"]
    if unit.kind == GPU:
        cuda = environment.get("cuda")
        parts.append(f"cuda {cuda.get('version') if isinstance(cuda, dict) else '?'}")
    else:
        parts.append(str(environment.get("cpu_capability", "?")))
    if unit.kind == HOST:  # how a sum is split over threads decides its rounding
        parts.append(f"{len(unit.allowed_cores)} threads")
    return ", ".join((*parts, *(part for part in unit.model if part)))


def _cells(sweeping: Sweeping, host: str) -> Iterator[Cell]:
    for count in sweeping.tally.counts.values():
        word, reason = count.word()
        yield Cell(
            unit=unit_id(host, count.unit), test=count.test.name, word=word,
            verdict=verdict_of(TOOL, word), checks=count.checks,
            findings=sum(verdict_of(TOOL, s.decision.word) not in (CLEAN, Verdict.NOT_TESTED.value)
                         for s in count.seen),
            reason=reason, family=count.test.family, oracle=count.oracle,
            elapsed_s=count.elapsed_s, num_bytes=count.num_bytes, flops=count.flops)


def _entries(sweeping: Sweeping, run: Run) -> Iterable[Entry]:
    """One for each failure that was looked into, worst first."""
    found = []
    for count in sweeping.tally.counts.values():
        for seen in count.seen:
            verdict = verdict_of(TOOL, seen.decision.word)
            if verdict not in (CLEAN, Verdict.NOT_TESTED.value):
                found.append(_entry(sweeping, run, count, seen, Verdict(verdict)))
    order = list(Verdict)
    return sorted(found, key=lambda e: (order.index(e.verdict), e.unit, e.test))


def _entry(
    sweeping: Sweeping, run: Run, count: Count, seen: Seen, verdict: Verdict
) -> Entry:
    what, unit = seen.what, seen.unit
    device = unit.name if unit.kind == GPU else "cpu"
    outputs = () if what is None else (TensorMeta(
        name="result", dtype=what.dtype, shape=what.shape, stride=_strides(what.shape),
        storage_offset=0, device=device, alignment_bytes=0),)
    place = f"{run.host}, {seen.decision.place}" if seen.decision.place else ""
    if place and what is not None and what.subunits:
        place = f"{place}, {what.subunits[0]}"
    finding = Finding(
        verdict=verdict,
        call=OpCall(
            op=what.op if what is not None else seen.test.name, call_index=0, step=0,
            phase="", module="", source="", operands=(), outputs=outputs,
            arguments=f"{seen.test.name}: {seen.case}, seed {seen.seed}", flops=0,
            num_threads=1 if unit.kind == CORE else 0),
        witness=seen.witness, relation=f"{seen.test.name}: {seen.case}",
        worst=what.worst if what is not None else None,
        pattern=what.pattern if what is not None else None,
        attribution=Attribution(
            cause=seen.decision.cause, place=place, votes=seen.decision.votes,
            reason=seen.decision.reason + _convicted(sweeping, seen)),
        evidence=Evidence(bundle="", replay_command=replay_line(seen), note=""),
        held_is_wrong=verdict is Verdict.CORRUPTION, message=seen.tail, rank=run.rank,
        repeats=max(1, count.mismatches if len(count.seen) == 1 else 1),
        spread=what.spread if what is not None else None)
    id_ = fingerprint(finding, tool=TOOL, file=unit_id(run.host, unit), test=seen.test.name)
    facts = {**unit.facts, "seed": str(seen.seed), "case": seen.case}
    if what is not None:
        facts |= {"core": str(what.core)} if what.core >= 0 else {}
        facts |= {"run of the case": str(what.run_number),
                  "read again": f"{what.num_reread} elements still wrong"}
        facts |= {name: f"{value:g}" for name, value in what.sensors.items()}
        if len(what.subunits) > 1:
            facts["parts"] = ", ".join(what.subunits)
        facts |= {"by pair": what.isolation} if what.isolation else {}
    return Entry(
        id=id_, code=code_of(verdict.value, seen.witness), tool=TOOL, word=seen.decision.word,
        verdict=verdict, run=run.id, finding=finding, time_s=seen.time_s, test=seen.test.name,
        unit=unit_id(run.host, unit), wrong=what.wrong if what is not None else None,
        tried=what.tried if what is not None else None,
        elements=what.elements if what is not None else (),
        contrast=tuple(_contrast(sweeping, seen)), facts=facts)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def replay_line(seen: Seen) -> str:
    """The command that makes the same case on the same unit again."""
    unit = seen.unit
    where = (["--devices", unit.name] if unit.kind == GPU
             else ["--devices", "cpu", "--cores", str(unit.index)] if unit.kind == CORE
             else ["--devices", "cpu"])
    case = ["--case", seen.case] if seen.case else []
    return shlex.join(["sdc-guard", "sweep", *where, "--tests", seen.test.name, *case, "--seed",
                       str(seen.seed), "--seconds", str(REPLAY_S), "--fresh"])


def _convicted(sweeping: Sweeping, seen: Seen) -> str:
    """Who of the disputing units misses answers that are known exactly, too."""
    if seen.decision.word != AMBIGUOUS:
        return ""
    names = sorted({s.unit.name for s in sweeping.tally.seen if s.unit.name in seen.digests
                    and s.decision.word == FAIL and s.decision.place == s.unit.name})
    return f"; {', '.join(names)} fails other tests, see there" if len(names) == 1 else ""


def _contrast(sweeping: Sweeping, seen: Seen) -> Iterator[str]:
    """What supports the blame: other tests on this unit, and this test on other units."""
    lines = []
    for count in sweeping.tally.counts.values():
        if not count.checks or (count.unit == seen.unit) == (count.test.name == seen.test.name):
            continue
        is_other_path = count.test.family in CONTRASTING or count.test.name == seen.test.name
        if is_other_path:
            word, _ = count.word()
            word = "clean" if word == PASS else word
            lines.append(f"{count.test.name} on {count.unit.name}: {word} "
                         f"({count.checks:,} checks)")
    yield from lines[:MAX_CONTRAST]
