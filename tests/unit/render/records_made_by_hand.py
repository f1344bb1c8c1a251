"""Findings and coverage made by hand, with text that would break a page if it were not escaped."""

from __future__ import annotations

from typing import Any

import msgspec

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
    TensorMeta,
    Value,
    Verdict,
    Vote,
    Worst,
)

HOSTILE = "<script>alert('x')</script>&\"quoted\""


def value(number: float, bits: str = "0x40490fdb") -> Value:
    return Value(dtype="float32", bits=bits, repr=repr(number))


def finding(**changes: Any) -> Finding:
    meta = TensorMeta(name="self", dtype="float32", shape=(1024, 768), stride=(768, 1),
                      storage_offset=0, device="cpu", alignment_bytes=0)
    call = OpCall(op="aten.sum.dim_IntList", call_index=7, step=41, phase="backward",
                  module="blocks.2.mlp.down", source="/project/model.py:57",
                  operands=(meta,), outputs=(meta,), arguments="dim=[0]", flops=786432,
                  num_threads=2)
    worst = Worst(output=0, index=(17,), got=value(3.1415927), expected=value(2.5, "0x40200000"),
                  xor="0x00690fdb", error=value(0.6415927), error_ulps=3.1e6,
                  bound=Bound(kind="proof", limit=1.25e-5, formula="gamma_(n-1) sum|x|"))
    pattern = Pattern(num_wrong=3, num_elements=768, first=((17,), (19,), (21,)), box_low=(17,),
                      box_high=(21,), flat_stride=2)
    votes = (
        *(Vote(place=place, method="identical call", identical=True, result="held")
          for place in ("core 0", "core 1") for _ in range(3)),
        Vote(place="here", method="roll", identical=False, result="expected"),
    )
    made = Finding(
        verdict=Verdict.CORRUPTION, call=call, witness="replay", relation="roll d0", worst=worst,
        pattern=pattern,
        attribution=Attribution(cause=Cause.SOFTWARE, place="", votes=votes,
                                reason="the identical call is wrong everywhere"),
        evidence=Evidence(bundle="b.sdcz", replay_command="sdc-guard replay b.sdcz", note=""),
        held_is_wrong=True, message="corruption")
    return msgspec.structs.replace(made, **changes)


def op_coverage(op: str = "aten.sum", calls: int = 10, calls_checked: int = 4) -> OpCoverage:
    return OpCoverage(op=op, calls=calls, calls_checked=calls_checked, elements=10 * calls,
                      elements_checked=10 * calls_checked, flops=100 * calls,
                      flops_checked=100 * calls_checked, witnesses={"replay": calls_checked},
                      not_tested={"not sampled (budget)": calls - calls_checked})


def coverage(*ops: OpCoverage, **changes: Any) -> Coverage:
    made = Coverage(ops=ops or (op_coverage(),), gaps=(), dead_witnesses=(), refused_relations=(),
                    overhead_s=0.2, elapsed_s=10.2, steps=50, steps_skipped=0, guard_errors=0)
    return msgspec.structs.replace(made, **changes)
