"""Clean sweeps: nothing is broken, so every word but PASS and SKIP is a false alarm.

    python -m tests.sweep_clean.run --minutes 30 --out reports/sweep

Sweeps as a user runs them, one after the other: plain, with instruction sets capped, on one core,
with other numbers of threads for whatever asks the environment; on the machine as it is, and beside
other work that keeps every core busy.  Each sweep is a line of ``clean.jsonl``, so that a run that
is stopped goes on; ``clean.md`` is the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdc_guard.bench.results import make_stamp
from sdc_guard.document.reading import read_document
from sdc_guard.intervals import proportion
from sdc_guard.plain_json import plain

QUIET_WORDS = {"PASS", "SKIP"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CONDITIONS: tuple[tuple[str, dict[str, str], tuple[str, ...]], ...] = (
    ("plain", {}, ()),
    ("held to AVX2", AVX2, ()),
    ("ATen's plain kernels", {"ATEN_CPU_CAPABILITY": "default"}, ()),
    ("oneDNN held to AVX-512 without bfloat16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, ()),
    ("one core, 1 thread", {"OMP_NUM_THREADS": "1"}, ("--cores", "0")),
    ("OMP_NUM_THREADS=7", {"OMP_NUM_THREADS": "7", "MKL_DYNAMIC": "FALSE"}, ()),
)
BURN = """
import os, torch
torch.set_num_threads(1)
a = torch.randn(700, 700)
parent = os.getppid()
while os.getppid() == parent:
    a = torch.nn.functional.normalize(a @ a.t())
"""


@contextmanager
def other_work(num: int) -> Iterator[None]:
    """So many processes that multiply matrices meanwhile."""
    burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(num)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def swept(name: str, extra: dict[str, str], arguments: tuple[str, ...], seconds: float,
          seed: int) -> dict[str, Any]:
    """One sweep, as a record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sdc_guard", "sweep", "--seconds", f"{seconds:g}",
                   "--seed", str(seed), "--fresh", "--quiet", "--state", f"{folder}/state",
                   "--out", folder, *arguments]
        begun_s = time.monotonic()
        done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True,
                              check=False)
        report = read_document((Path(folder) / "sweep.json").read_bytes())
    assert report.sweep is not None
    loud = [cell for cell in report.cells if cell.word not in QUIET_WORDS]
    return {
        "condition": name, "seed": seed, "seconds": seconds, "exit_code": done.returncode,
        "wall_s": round(time.monotonic() - begun_s, 1), "checks": report.sweep.checks,
        "num_bytes": report.sweep.num_bytes, "flops": report.sweep.flops,
        "words": dict(Counter(cell.word for cell in report.cells)),
        "skipped": dict(Counter(cell.reason for cell in report.cells if cell.word == "SKIP")),
        "alarms": [plain(cell) for cell in loud] + [plain(e) for e in report.findings]}


def _next(records: list[dict[str, Any]], minutes: float, only: str) -> bool | None:
    """Whether the next sweep is beside other work: the half that has less so far; None at the
    end."""
    swept_s = {busy: sum(r["seconds"] for r in records if r["busy"] is busy)
               for busy in (False, True) if only in ("", "busy" if busy else "quiet")}
    busy = min(swept_s, key=lambda b: swept_s[b])
    return busy if swept_s[busy] < 30 * minutes else None


def main() -> None:
    """Until the minutes are over, half of them beside other work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--sweep-s", type=float, default=120.0, help="length of one sweep")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("quiet", "busy"), default="", help="one half, now")
    parser.add_argument("--out", type=Path, default=Path("reports/sweep"))
    asked = parser.parse_args()
    log = asked.out / "clean.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while (is_busy := _next(records, asked.minutes, asked.only)) is not None:
        number = len(records)
        done = sum(r["busy"] is is_busy for r in records)
        name, extra, arguments = CONDITIONS[done % len(CONDITIONS)]
        with other_work(len(os.sched_getaffinity(0)) if is_busy else 0):
            record = swept(name, extra, arguments, asked.sweep_s, asked.seed + number)
        record["busy"] = is_busy
        record["load"] = round(os.getloadavg()[0], 1)
        record["commit"] = make_stamp("", asked.seed).commits[0]
        records.append(record)
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}{', busy' if is_busy else ''}: exit {record['exit_code']}, "
              f"{record['checks']:,} checks, {record['words']}", flush=True)
    command = f"python -m tests.sweep_clean.run --minutes {asked.minutes:g} --seed {asked.seed}"
    (asked.out / "clean.md").write_text(page(records, plain(make_stamp(command, asked.seed))))
    sys.exit(any(r["alarms"] or r["exit_code"] for r in records))


def page(records: list[dict[str, Any]], stamp: dict[str, Any]) -> str:
    """The table, as Markdown."""
    cells = sum(sum(n for w, n in r["words"].items() if w != "SKIP") for r in records)
    alarms = sum(len(r["alarms"]) for r in records)
    checks = sum(r["checks"] for r in records)
    minutes = sum(r["seconds"] for r in records) / 60
    by_cell = proportion(min(alarms, cells), cells)
    lines = [
        "# Sweeps where nothing is broken", "",
        *(f"- command: `{command}`" for command in stamp["commands"]),
        f"- commit: {', '.join(sorted({r['commit'] for r in records}))}; seeds "
        f"{records[0]['seed']} to {records[-1]['seed']}; torch {stamp['torch']}, numpy "
        f"{stamp['numpy']}, Python {stamp['python']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores",
        "", "Each row is a whole sweep as a user runs it. Any word but PASS and SKIP, of any test "
        "on any unit, is a false alarm. \"Busy\": one process for each core multiplies matrices "
        "meanwhile, on the same cores. \"Load\" is that of the last minute, at the end of the "
        "sweep; its own is one for each core.", "",
        f"**{alarms} false alarms in {cells} verdicts** of tests on units (95 % interval, Clopper "
        f"and Pearson: {by_cell.low:.2g} to {by_cell.high:.2g}), {checks:,} compared results, "
        f"{minutes:.0f} minutes of sweep.", "",
        "| condition | busy | load | seconds | exit code | checks | GB | GFLOP | words |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for r in records:
        words = ", ".join(f"{n} {w}" for w, n in sorted(r["words"].items()))
        lines.append(
            f"| {r['condition']} | {'yes' if r['busy'] else 'no'} | {r['load']:.1f} | "
            f"{r['seconds']:.0f} | "
            f"{r['exit_code']} | {r['checks']:,} | {r['num_bytes'] / 1e9:.0f} | "
            f"{r['flops'] / 1e9:.0f} | {words} |")
    reasons: Counter[str] = Counter()
    for r in records:
        reasons.update(r["skipped"])
    lines += ["", "What was skipped, and why:", "",
              *(f"- {count} times: {reason}" for reason, count in sorted(reasons.items()))]
    for r in records:
        lines += [f"- ALARM in {r['condition']}, seed {r['seed']}: `{json.dumps(a)[:500]}`"
                  for a in r["alarms"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
