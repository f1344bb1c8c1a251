"""A benchmark's document made up by numbers, for tests of the page: nothing here was measured."""

from __future__ import annotations

import numpy as np

from sdc_guard.bench.benchfile import BenchFile, merge
from sdc_guard.bench.cells import FIRM, MISSED, Cell, CleanCell, Cost, FaultTrial, Harm
from sdc_guard.bench.results import Stamp
from sdc_guard.intervals import Interval

SHARES = {  # transient, repeated, deterministic; cost
    "sdc_guard 0.5 %": (0.004, 0.6, 0.55, 1.004),
    "sdc_guard 1 %": (0.01, 0.7, 0.62, 1.011),
    "sdc_guard 2 %": (0.02, 0.83, 0.8, 1.019),
    "sdc_guard 5 %": (0.05, 0.93, 0.9, 1.052),
    "sdc_guard all": (1.0, 0.998, 0.995, 2.4),
    "rerun and compare": (0.93, 0.0, 0.0, 2.1),
    "float64 recompute": (0.61, 0.66, 0.7, 4.3),
    "NaN and loss-spike watch": (0.03, 0.05, 0.04, 1.0005),
    "step replay": (0.95, 0.01, 0.0, 2.05),
    "gradient statistics": (0.02, 0.06, 0.05, 1.002),
}
FAULTS = {"single bit": ("transient", 0), "zeroed block": ("transient", 0),
          "stuck lane": ("repeated", 1), "dropped block": ("deterministic", 2)}
CLASSES = ("product", "pointwise", "reduction")
SIZES = ("0.01 to 0.1", "0.1 to 1", "2 to 100", "above 100", "not finite")
NUM = 60


def trial(index: int, *, op_class: str = "product", size: str = "2 to 100",
          outcome: str = MISSED, why: str = "no witness disagreed") -> FaultTrial:
    return FaultTrial(index=index, op="aten.mm.default", op_class=op_class, size=size,
                      outcome=outcome, num_steps=1, alarms=(), num_false=0, fault=None, why=why)


def cell(detector: str, fault: str, *, counts: dict[str, dict[str, int]],
         workload: str = "gpt-demo", dtype: str = "fp32", kind: str = "transient",
         start: int = 0, seed: int = 0, device: str = "cpu",
         missed: tuple[tuple[int, int], ...] = (),
         delays: dict[str, int] | None = None, causes: dict[str, int] | None = None,
         examples: tuple[FaultTrial, ...] = ()) -> Cell:
    num = sum(sum(found.values()) for found in counts.values())
    return Cell(detector=detector, workload=workload, dtype=dtype, fault=fault, kind=kind,
                device=device, seed=seed, max_steps=200, done=((start, start + num),),
                counts=counts, missed=missed, delays=delays or {}, causes=causes or {},
                examples=examples)


def stamp(command: str = "sdc-guard bench matrix --seed 0", commit: str = "0123456789ab") -> Stamp:
    return Stamp(commands=(command,), commits=(commit,), seed=0, python="3.11.7", torch="2.13.0",
                 numpy="2.4.6", platform="Linux", processor="name CPU vendor Maker family 1",
                 instruction_set="AVX512", num_cores=2, devices=(), load=1.0)


def clean(
    detector: str, dtype: str = "fp32", num_alarms: int = 0, num_steps: int = 50
) -> CleanCell:
    return CleanCell(detector=detector, workload="gpt-demo", dtype=dtype, device="cpu", seed=0,
                     num_steps=num_steps, num_checks=1000 * num_steps, num_alarms=num_alarms,
                     by_verdict={"corruption": num_alarms} if num_alarms else {}, examples=())


def cost(detector: str, ratio: float, *, workload: str = "gpt-demo", dtype: str = "fp32",
         num_pairs: int = 20) -> Cost:
    def near(value: float) -> Interval:
        return Interval(value=value, low=0.995 * value, high=1.006 * value, confidence=0.95)

    return Cost(detector=detector, workload=workload, dtype=dtype, device="cpu", seed=0,
                num_threads=1, num_pairs=num_pairs, steps_per_turn=1, plain_ms=100.0,
                ratio=near(ratio), total_ratio=near(ratio))


def harm(fault: str, kind: str, *, changes: dict[str, float | None], dtype: str = "fp32") -> Harm:
    return Harm(workload="gpt-demo", dtype=dtype, fault=fault, kind=kind, device="cpu", seed=0,
                num_steps=200, num_controls=10, noise=0.001, clean_loss=2.5, changes=changes)


def document() -> BenchFile:
    """Every detector of :data:`SHARES` on two workloads and dtypes; costs, clean runs and harm."""
    generator = np.random.default_rng(0)
    cells = [
        _drawn(generator, detector, fault, workload, dtype)
        for detector in SHARES for fault in FAULTS
        for workload in ("gpt-demo", "resnet") for dtype in ("fp32", "bf16")]
    numbers = range(NUM)
    return merge(BenchFile(), BenchFile(
        stamps=(stamp(),), cells=tuple(cells),
        clean=tuple(clean(d, dtype, num_alarms=3 if "float64" in d else 0)
                    for d in SHARES for dtype in ("fp32", "bf16")),
        costs=tuple(cost(d, SHARES[d][3] ** (1.1 if dtype == "bf16" else 1), workload=w,
                         dtype=dtype)
                    for d in SHARES for w in ("gpt-demo", "resnet")
                    for dtype in ("fp32", "bf16")),
        harms=tuple(harm(fault, kind, changes={
            str(n): None if n % 29 == 0 else float(generator.normal()) * 0.002 for n in numbers})
            for fault, (kind, _) in FAULTS.items())))


def _drawn(
    generator: np.random.Generator, detector: str, fault: str, workload: str, dtype: str
) -> Cell:
    kind, place = FAULTS[fault]
    found = generator.random(NUM) < SHARES[detector][place]
    counts: dict[str, dict[str, int]] = {}
    delays: dict[str, int] = {}
    missed, examples = [], []
    for n, is_found in enumerate(found):
        op_class, size = CLASSES[n % len(CLASSES)], SIZES[(n // 3) % len(SIZES)]
        outcome = FIRM if is_found else MISSED
        group = counts.setdefault(f"{op_class} | {size}", {})
        group[outcome] = group.get(outcome, 0) + 1
        if is_found:
            late = kind != "transient" and detector != "sdc_guard all"
            steps = str(1 + int(generator.exponential(15)) if late else 1)
            delays[steps] = delays.get(steps, 0) + 1
        else:
            missed.append((n, n + 1))
            examples.append(trial(n, op_class=op_class, size=size))
    names = detector.startswith("sdc_guard")
    cause = {"transient": "transient"}.get(kind, "software")
    causes = {cause: int(found.sum()) - 1, "unknown": 1} if names and found.any() else {}
    return cell(detector, fault, counts=counts, workload=workload, dtype=dtype, kind=kind,
                missed=tuple(missed), delays={k: delays[k] for k in sorted(delays, key=int)},
                causes=causes, examples=tuple(examples[:5]))
