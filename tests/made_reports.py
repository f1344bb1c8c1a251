"""Reports made up for tests: of findings in a small GPT, of nothing, and hostile ones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from sdc_guard.document.codes import code_of
from sdc_guard.document.schema import (
    SCHEMA_VERSION,
    Cell,
    Entry,
    Module,
    Point,
    Report,
    Run,
    SensorSample,
    Sweep,
    SweptDigest,
    SweptTest,
    SweptUnit,
    WrongElement,
)
from sdc_guard.document.verdicts import verdict_of
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.records import (
    Attribution,
    Bound,
    Cause,
    Coverage,
    Evidence,
    Finding,
    OpCall,
    OpCoverage,
    Pattern,
    Spread,
    TensorMeta,
    Value,
    Verdict,
    Vote,
    Worst,
)
from sdc_guard.report.entries import entry_of
from sdc_guard.report.gather import gather

ROOT = Path("/project")
HOSTILE = "</script><img onerror=alert(1) src=x>'\"&\x00\x1b[31m\u2028"
NAN = Value(dtype="float32", bits="0x7fc12345", repr="nan")


def made_tensor(name: str = "self", **fields: Any) -> TensorMeta:
    return TensorMeta(**{
        "name": name, "dtype": "float32", "shape": (64, 128), "stride": (128, 1),
        "storage_offset": 0, "device": "cpu", "alignment_bytes": 0, **fields})


def made_finding(
    number: int = 0, *, verdict: Verdict = Verdict.CORRUPTION, **fields: Any
) -> Finding:
    """A finding in ``aten.sum``; ``number`` tells several apart."""
    call = {
        "op": "aten.sum.dim_IntList", "call_index": 100 + number, "step": 41 + number,
        "phase": "forward", "module": f"blocks.{number % 3}.mlp.down",
        "source": str(ROOT / "train" / "model.py") + f":{57 + number % 40}",
        "operands": (made_tensor(),), "outputs": (made_tensor("out[0]", shape=(64,), stride=(1,)),),
        "arguments": "dim=[1]", "flops": 8192, "num_threads": 2,
    }
    call.update({key: fields.pop(key) for key in list(fields) if key in call})
    fields = {
        "witness": "reference", "relation": "", "held_is_wrong": True,
        "worst": Worst(
            output=0, index=(3,), xor="0x00400000", error_ulps=4194304.0,
            got=Value(dtype="float32", bits="0x41c80000", repr="25.0"),
            expected=Value(dtype="float32", bits="0x41880000", repr="17.0"),
            error=Value(dtype="float64", bits="0x4020000000000000", repr="8.0"),
            bound=Bound(kind="proof", limit=1.2e-4, formula="gamma_127 * sum|x|")),
        "pattern": Pattern(num_wrong=3, num_elements=64, first=((3,), (11,), (19,)),
                           box_low=(3,), box_high=(19,), flat_stride=8),
        "attribution": Attribution(
            cause=Cause.SOFTWARE, place="", reason="the identical call is wrong everywhere",
            votes=(Vote(place="core 0", method="identical call", identical=True, result="held"),
                   Vote(place="core 1", method="identical call", identical=True,
                        result="held"))),
        "evidence": Evidence(bundle=f"runs/a/bundles/aten-sum-step{41 + number}.sdcz", note="",
                             replay_command=f"sdc-guard replay runs/a/bundles/aten-sum-{number}"
                                            ".sdcz"),
        "message": f"corruption in aten.sum at blocks.{number % 3}.mlp.down",
        "spread": Spread(
            bit_flips=tuple(3 if bit == 22 else 0 for bit in range(32)),
            masks=(("0x00400000", 3),), ulps_log2=((22, 3),), map_shape=(1, 64),
            map=((0, 3, 1), (0, 11, 1), (0, 19, 1)),
            lanes={"2": (0, 3), "4": (0, 0, 0, 3), "8": (0, 0, 0, 3, 0, 0, 0, 0)}),
        **fields,
    }
    return Finding(verdict=verdict, call=OpCall(**call), **fields)


def made_coverage(**fields: Any) -> Coverage:
    def op(name: str, calls: int, checked: int, reasons: dict[str, int]) -> OpCoverage:
        return OpCoverage(
            op=name, calls=calls, calls_checked=checked, elements=calls * 8192,
            elements_checked=checked * 8192, flops=calls * 100_000, flops_checked=checked * 100_000,
            witnesses={"replay": checked, "reference": checked // 2}, not_tested=reasons)

    return Coverage(**{
        "ops": (op("aten.mm.default", 400, 400, {}), op("aten.sum.dim_IntList", 120, 118,
                                                         {"budget": 2}),
                op("aten.bernoulli_.float", 40, 0, {"random draw": 40})),
        "gaps": ("what forked processes (DataLoader workers) compute is not watched",),
        "dead_witnesses": (), "refused_relations": (), "overhead_s": 1.5, "elapsed_s": 12.0,
        "steps": 50, "steps_skipped": 0, "guard_errors": 0, **fields})


def made_run(number: int = 0, **fields: Any) -> Run:
    return Run(**{
        "id": f"run {number}", "kind": "guard", "rank": number, "pid": 4000 + number,
        "host": "node-7", "start_utc": "2026-11-23T10:00:00+00:00",
        "source": f"runs/a/events.rank{number}.jsonl", "elapsed_s": 12.0, "is_complete": True,
        "seed": 0, "script": str(ROOT / "train.py"), "steps": 50,
        "environment": {"torch": "2.13.0+cpu", "host": "node-7", "python": "3.11.7",
                        "cpu": {"name": "AMD EPYC", "stepping": "1", "microcode": "0xa0011d5"},
                        "cuda": {"version": None, "devices": []},
                        "threads": {"intra_op": 2, "inter_op": 1},
                        "flags": {"deterministic_algorithms": 0},
                        "variables": {"OMP_NUM_THREADS": "2"}},
        "coverage": made_coverage(),
        "timeline": tuple(Point(step=i, time_s=0.25 * i, loss=4.0 / (1 + i), calls=12 * i,
                                calls_checked=11 * i, overhead_s=0.03 * i, findings=i // 41)
                          for i in range(50)),
        "modules": (Module(name="", kind="GPT"), Module(name="blocks", kind="ModuleList"),
                    *(Module(name=f"blocks.{i}{part}", kind=kind) for i in range(3)
                      for part, kind in (("", "Block"), (".attn", "Attention"), (".mlp", "MLP"),
                                         (".mlp.up", "Linear"), (".mlp.down", "Linear")))),
        **fields})


def made_report(num_findings: int = 3, **fields: Any) -> Report:
    """A run with so many findings, all of one kind in three layers."""
    run = made_run()
    entries = tuple(
        entry_of(made_finding(i), tool="guard", run=run.id, root=ROOT, time_s=10.0 + 0.1 * i,
                 host=run.host) for i in range(num_findings))
    return Report(**{
        "schema_version": SCHEMA_VERSION, "tool_version": "0.1.0",
        "created_utc": "2026-11-23T10:01:00+00:00", "title": "sdc_guard: runs/a",
        "sources": ("runs/a",), "runs": (run,), "findings": entries,
        "cells": (
            Cell(unit="node-7, rank 0", test="aten.mm.default", word="clean", verdict="clean",
                 checks=400),
            Cell(unit="node-7, rank 0", test="aten.sum.dim_IntList", checks=118,
                 word="corruption" if num_findings else "clean",
                 verdict="corruption" if num_findings else "clean", findings=num_findings),
            Cell(unit="node-7, rank 0", test="aten.bernoulli_.float", word="not tested",
                 verdict="not tested", reason="random draw")),
        **fields})


def clean_report() -> Report:
    return made_report(0)


def empty_report() -> Report:
    """Nothing was run, and nothing found."""
    return made_report(0, runs=(), cells=(), problems=("no run can be read",))


def hostile_report() -> Report:
    """Every text from outside is an attack, and numbers are NaN with a payload."""
    run = made_run(host=HOSTILE, script=HOSTILE, exception=HOSTILE, problems=(HOSTILE,),
                   modules=(Module(name=HOSTILE, kind=HOSTILE),),
                   environment={HOSTILE: HOSTILE, "torch": HOSTILE})
    finding = made_finding(
        0, op=HOSTILE, module=HOSTILE, source=f"{ROOT}/{HOSTILE}:3", arguments=HOSTILE,
        message=HOSTILE, witness=HOSTILE, relation=HOSTILE,
        evidence=Evidence(bundle=HOSTILE, replay_command=HOSTILE, note=HOSTILE))
    worst = msgspec.structs.replace(finding.worst, got=NAN, error_ulps=float("nan"))
    finding = msgspec.structs.replace(finding, worst=worst)
    entry = entry_of(finding, tool="guard", run=run.id, root=ROOT, test=HOSTILE, host=HOSTILE)
    return made_report(
        0, title=HOSTILE, sources=(HOSTILE,), runs=(run,), findings=(entry,), problems=(HOSTILE,),
        cut={HOSTILE: 3},
        cells=(Cell(unit=HOSTILE, test=HOSTILE, word=HOSTILE, verdict="corruption", findings=1,
                    reason=HOSTILE),))


def many_report(num_findings: int) -> Report:
    """So many findings, each a divergence of its own."""
    (first,) = made_report(1).findings
    replace = msgspec.structs.replace
    return made_report(0, findings=tuple(
        replace(first, id=f"{i:016x}", finding=replace(first.finding, call=replace(
            first.finding.call, op=f"aten.op{i}.default"))) for i in range(num_findings)))


def truncated_report() -> Report:
    """A run that was killed: no summary, so no coverage."""
    return made_report(1, runs=(made_run(is_complete=False, coverage=None, problems=(
        "the run did not end in order: what it checked in all is not known",)),), cells=())


def surrogate_report() -> Report:
    """Paths that are not UTF-8, as ``os.fsdecode`` gives them, in a document made in memory."""
    finding = made_finding(0, source=f"{ROOT}/m\udc80d/x.py:3", module="a\udcff")
    run = made_run(script="m\udc80.py", host="h\udc80")
    entry = entry_of(finding, tool="guard", run=run.id, root=ROOT, host=run.host)
    return made_report(0, runs=(run,), findings=(entry,), title="t\udc80")


def torn_report() -> Report:
    """What is read of a log whose last line was being written when the process was killed."""
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(Path(folder), 0, environment=made_run().environment)
        log.write("finding", finding=made_finding())
        log.write("finding", finding=made_finding(1))
        log.close()
        assert log.path is not None
        log.path.write_bytes(log.path.read_bytes()[:-200])
        return gather([log.path], root=ROOT)


GPU = {"host": "node-7", "model": "NVIDIA H200", "uuid": "GPU-1f", "pci": "00000000:07:00.0",
       "serial": "165", "capability": "9.0"}
# test: family, oracles, oracle and checks of a pass on a core
SWEPT = {
    "exact_product": ("F1", ("exact",), "exact", 1_204_551),
    "high_entropy_repeat": ("F3", ("self", "peer"), "peer", 88_000),
    "golden_digest": ("F4", ("golden",), "golden", 4_096),
    "memory_patterns": ("F7", ("exact",), "exact", 412),
    "sm_chain": ("F5", ("exact",), "exact", 132_000),
}


def swept_units() -> tuple[SweptUnit, ...]:
    cores = tuple(SweptUnit(id=f"node-7, core {i}", kind="core", name=f"core {i}", facts={
        "host": "node-7", "model": "AMD EPYC 7763", "stepping": "1", "microcode": "0xa0011d5",
        "socket": "0", "core_id": str(i), "siblings": f"{i},{i + 64}", "numa_node": "0"})
        for i in range(4))
    return (*cores, SweptUnit(id="node-7, cuda:0", kind="gpu", name="cuda:0", facts=GPU))


def swept_cell(unit: SweptUnit, test: str) -> Cell:
    """One wrong core, one that was wrong once, and what cannot run where."""
    family, _, oracle, checks = SWEPT[test]
    word, reason, findings = "PASS", "", 0
    if (test == "sm_chain") != (unit.kind == "gpu"):
        word, reason = "SKIP", "needs a CUDA device" if test == "sm_chain" else "runs on cores"
    elif (unit.name, test) == ("core 1", "exact_product"):
        word, findings = "FAIL", 1
    elif (unit.name, test) == ("core 2", "high_entropy_repeat"):
        word, findings = "SUSPECT", 1
    elif test == "golden_digest":
        word, reason = "INVALID", "recorded with torch 2.12.0, this is 2.13.0"
    elif (unit.name, test) == ("core 3", "memory_patterns"):
        word, reason = "TOOL ERROR", "MemoryError at memory.py:81"
    is_run = word not in ("SKIP", "TOOL ERROR")
    return Cell(
        unit=unit.id, test=test, word=word, verdict=verdict_of("sweep", word), reason=reason,
        checks=checks if is_run else 0, findings=findings, family=family,
        oracle=oracle if is_run else "", elapsed_s=2.5 if is_run else 0.0,
        num_bytes=8 * checks if is_run else 0, flops=200 * checks if is_run else 0)


def swept_entry(run: Run, *, word: str = "FAIL", unit: str = "node-7, core 1",
                test: str = "exact_product", number: int = 0) -> Entry:
    """A product with three wrong elements."""
    oracle = SWEPT[test][2]
    finding = made_finding(
        verdict=Verdict(verdict_of("sweep", word)), op="aten.mm", module="", source="",
        step=0, phase="",
        outputs=(made_tensor("out[0]", shape=(8, 8), stride=(8, 1)),), witness=oracle,
        arguments=f"{test}: float32 33x65x17 NT, seed 7", message=f"{word}: {test} on {unit}",
        relation="integers whose sums are exact in any order" if oracle == "exact" else "",
        evidence=Evidence(bundle="", note="", replay_command=(
            f"sdc-guard sweep --cores 1 --tests {test} --case 'float32 33x65x17 NT' --seed 7")),
        attribution=Attribution(
            cause=Cause.PERSISTENT_HARDWARE if word == "FAIL" else Cause.UNKNOWN,
            place=unit, reason="two other cores give the expected bits",
            votes=(Vote(place="core 0", method="the same case", identical=True,
                        result="expected"),)))
    worst = msgspec.structs.replace(finding.worst, bound=None, index=(0, 3))
    pattern = Pattern(num_wrong=3, num_elements=64, first=((0, 3), (1, 3), (2, 3)), box_low=(0, 3),
                      box_high=(2, 3), flat_stride=8)
    finding = msgspec.structs.replace(finding, worst=worst, pattern=pattern)
    elements = tuple(WrongElement(
        index=(i, 3), got="0x41c80000", expected="0x41880000", got_hexfloat="0x1.9p+4",
        expected_hexfloat="0x1.1p+4", xor="0x00400000", popcount=1) for i in range(3))
    return Entry(
        id=f"{number:016x}", code=code_of(finding.verdict.value, oracle), tool="sweep", word=word,
        verdict=finding.verdict, run=run.id, finding=finding, time_s=4.5, test=test, unit=unit,
        wrong=10 if word == "FAIL" else 0, tried=10 if word == "FAIL" else 20, elements=elements,
        contrast=("memory_patterns on core 1: clean (412 checks)",
                  "exact_product on core 0: clean (1,204,551 checks)"),
        facts={"case": "float32 33x65x17 NT", "seed": "7", "temperature C": "71.5"})


def sweep_report(**fields: Any) -> Report:
    """A sweep of four cores and a GPU; core 1 multiplies wrongly, core 2 did so once."""
    run = made_run(id="sweep node-7 seed 7", kind="sweep", seed=7, budget="2min", script="",
                   coverage=None, timeline=(), modules=(), steps=0, elapsed_s=118.5)
    units = swept_units()
    cells = tuple(swept_cell(unit, test) for unit in units for test in SWEPT)
    return made_report(0, **{
        "title": "sdc_guard sweep of node-7", "runs": (run,), "cells": cells,
        "findings": (
            swept_entry(run),
            swept_entry(run, word="SUSPECT", unit="node-7, core 2", test="high_entropy_repeat",
                        number=1)),
        "sweep": Sweep(
            seed=7, budget_s=120.0, units=units,
            tests=tuple(SweptTest(
                name=name, family=family, oracles=oracles, blames="core or GPU",
                dtypes=("float32", "bfloat16"), dwell_s=2.0,
                proves="Products of integers came out right to the last bit.",
                cannot_prove="Integers set few of a float's low bits.")
                for name, (family, oracles, _, _) in SWEPT.items()),
            digests=(SweptDigest(key="high_entropy_repeat float32 seed 7 torch 2.13.0",
                                 unit="node-7, core 0", digest="0123456789abcdef" * 2,
                                 test="high_entropy_repeat"),),
            samples=tuple(SensorSample(time_s=10.0 * i, unit=unit.id, readings={
                "temperature C": 60.0 + i + 3 * n, "clock MHz": 3400.0 - 10 * i - 60 * n})
                for i in range(12) for n, unit in enumerate(units)),
            checks=sum(c.checks for c in cells), num_bytes=sum(c.num_bytes for c in cells),
            flops=sum(c.flops for c in cells),
            canaries={name: "caught" for name in SWEPT}, cursor="seed 7: memory_patterns case 3"),
        **fields})


def hostile_sweep_report() -> Report:
    """A sweep whose every text is an attack."""
    report = sweep_report()
    assert report.sweep is not None
    (run,) = report.runs
    replace = msgspec.structs.replace
    hostile = swept_entry(run)
    element = replace(hostile.elements[0], got=HOSTILE, expected=HOSTILE, got_hexfloat=HOSTILE,
                      expected_hexfloat=HOSTILE, xor=HOSTILE, popcount=-1, index=())
    sweep = replace(
        report.sweep, cursor=HOSTILE, canaries={HOSTILE: HOSTILE}, budget_s=float("nan"),
        units=(SweptUnit(id=HOSTILE, kind=HOSTILE, name=HOSTILE, facts={HOSTILE: HOSTILE}),),
        tests=(SweptTest(name=HOSTILE, family=HOSTILE, oracles=(HOSTILE,), blames=HOSTILE,
                         dtypes=(HOSTILE,), proves=HOSTILE, cannot_prove=HOSTILE),),
        digests=(SweptDigest(key=HOSTILE, unit=HOSTILE, digest=HOSTILE, test=HOSTILE),),
        samples=tuple(SensorSample(time_s=t, unit=HOSTILE, readings={HOSTILE: v})
                      for t, v in ((0.0, 1.0), (float("inf"), float("nan")), (2.0, 1e308))))
    return replace(report, sweep=sweep, cells=(Cell(
        unit=HOSTILE, test=HOSTILE, word=HOSTILE, verdict=HOSTILE, checks=1, family=HOSTILE,
        oracle=HOSTILE, reason=HOSTILE, elapsed_s=float("nan")),), findings=(replace(
            hostile, word=HOSTILE, unit=HOSTILE, test=HOSTILE, elements=(element,),
            contrast=(HOSTILE,), facts={HOSTILE: HOSTILE}),))


SHAPES = {"failing": made_report, "passing": clean_report, "empty": empty_report,
          "truncated": truncated_report, "torn": torn_report, "hostile": hostile_report,
          "surrogates": surrogate_report, "sweep": sweep_report,
          "hostile sweep": hostile_sweep_report}
"""What every format must hold, by name."""
