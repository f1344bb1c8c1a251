"""``make test-catalogue``: torch's own operator catalogue under the guard, and a report of it.

Every operator of ``op_db`` runs its sample inputs, and the gradients of its results, plain and
under ``Guard(budget="all")``.  Exit code 1 if a result changed that an empty dispatch mode leaves
alone, if anything was found, or if the guard failed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdc_guard.bench.results import make_stamp
from sdc_guard.intervals import proportion
from sdc_guard.plain_json import plain
from tests.known_precision import is_known

DTYPES = ("float32", "bfloat16", "float16", "float64", "complex64",
          "complex128", "int64")
FLOATS = frozenset({"float32", "bfloat16", "float16", "float64"})
SECONDS_PER_CHILD = 3000


def run_dtype(
    dtype: str, num_samples: int, num_faults: int = 0, model: str = "transient"
) -> list[dict[str, Any]]:
    """One child after another: each goes on behind the operator in which the last one died."""
    faults = [str(num_faults), model] if num_faults else []
    rows: list[dict[str, Any]] = []
    first = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.catalogue.child", dtype, str(num_samples), str(first),
             *faults],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        last: dict[str, Any] = {}
        assert child.stdout is not None
        for line in child.stdout:
            if not line.startswith("{"):
                continue
            last = json.loads(line)
            if "samples" in last or "harness" in last:
                rows.append(last)
        code = child.wait(SECONDS_PER_CHILD)
        if code == 0:
            return rows
        if "starts" not in last:
            raise SystemExit(f"the catalogue could not be read: exit code {code}; install the "
                             "extra [test], which brings expecttest")
        rows.append({"op": last["starts"], "dtype": dtype, "harness": f"process died: {code}"})
        first = int(last["index"]) + 1


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all rows, and whatever is not clean by name."""
    calls: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    rerun_only: collections.Counter[str] = collections.Counter()
    for row in rows:
        if row["dtype"] not in FLOATS:
            continue
        for name, count in row.get("calls", {}).items():
            op, _, what = name.partition(" ")
            if what.startswith("not tested"):
                reasons[what] += count
            else:
                calls[what] += count
                rerun_only[op] += {"checked": count, "beyond rerun": -count}.get(what, 0)
    changed = [(r["op"], r["dtype"], c) for r in rows for c in r.get("changed", [])]
    return {
        "operators": len({r["op"] for r in rows}),
        "samples": sum(r.get("samples", 0) for r in rows),
        "checks": sum(r.get("checks", 0) for r in rows),
        "findings": [f"{r['op']} {r['dtype']}: {f}" for r in rows for f in r.get("findings", [])
                     if not is_known(f)],
        "known_precision": [f"{r['op']} {r['dtype']}: {f}" for r in rows
                            for f in r.get("findings", []) if is_known(f)],
        "guard_errors": [f"{r['op']} {r['dtype']}: {r['guard_errors']} {r['errors']}"
                         for r in rows if r.get("guard_errors")],
        "harness": [f"{r['op']} {r['dtype']}: {r['harness']}" for r in rows if "harness" in r],
        "changed_by_the_guard": sorted({f"{o} {d}" for o, d, c in changed if c["why"] == "guard"}),
        "changed_by_any_mode": sorted({f"{o} {d}" for o, d, c in changed if "mode" in c["why"]}),
        "differ_without_a_guard": sorted(
            {f"{o} {d}" for o, d, c in changed if "without" in c["why"]}),
        "float_calls": dict(calls),
        "not_tested": dict(reasons.most_common()),
        "rerun_only": {k: v for k, v in rerun_only.most_common() if v > 0},
    }


HEADS = {
    "transient": ("Single flips", "One bit of one element of one result of one call, all uniform, "
                  "forward or backward."),
    "repeated": ("Repeated faults", "Each strikes every execution of one kernel, those of the "
                 "guard included, and changes a result by more than twice its bound; found within "
                 "10 runs of the sample. `flip`: one bit of one result element, at one place. "
                 "`offset` and `dropped`: the next element or zero is read instead of one element "
                 "of an operand, at one `place`, or wherever that number occurs (`data`). `no "
                 "bound`: faults in results for which the operator's file gives no bound, counted "
                 "apart."),
}


def power_page(
    rows: list[dict[str, Any]], stamp: dict[str, Any], model: str
) -> tuple[str, bool]:
    """What was found of the faults of a model, as Markdown; and whether it is at least 99 %."""
    title, text = HEADS[model]
    lines = [f"# {title} in torch's operator catalogue", "",
             f"- command: `{stamp['commands'][0]}`", f"- commit: {stamp['commits'][0]}; torch "
             f"{stamp['torch']}", f"- machine: {stamp['platform']}, {stamp['processor']}", "",
             f"{text} 95 % intervals.", "",
             "| dtype | kind | found | of | share | interval |", "|---|---|---|---|---|---|"]
    enough = True
    apart: list[str] = []
    for dtype in dict.fromkeys(r["dtype"] for r in rows):
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for row in rows:
            for name, count in row.get("power", {}).items() if row["dtype"] == dtype else ():
                kind, _, outcome = name.rpartition(": ")
                verdict = outcome.split(",")[0].removesuffix(" in an operator that calls it")
                counts[kind][verdict if verdict in ("found", "missed") else name] += count
        for kind, seen in sorted(counts.items()):
            num = seen["found"] + seen["missed"]
            if num:
                rate = proportion(seen["found"], num)
                enough &= "no bound" in kind or rate.value >= 0.99
                lines.append(f"| {dtype} | {kind or 'flip'} | {seen['found']} | {num} | "
                             f"{rate.value:.2%} | [{rate.low:.2%}, {rate.high:.2%}] |")
            apart += [f"- {dtype}: {name}: {count}" for name, count in seen.items()
                      if name not in ("found", "missed")]
    lines += ["", "## Counted apart", "", *apart, "", "## Missed", ""]
    lines += [f"- {r['op']} {r['dtype']}: `{m}`" for r in rows for m in r.get("missed", [])]
    lines += ["", "## Died or failed", ""]
    lines += [f"- {r['op']} {r['dtype']}: {r['harness']}" for r in rows if "harness" in r]
    return "\n".join(lines) + "\n", enough


def page(found: dict[str, Any], stamp: dict[str, Any]) -> str:
    """The report as Markdown."""
    calls = found["float_calls"]
    total = max(calls.get("calls", 0), 1)
    lines = [
        "# torch's operator catalogue under the guard", "",
        f"- command: `{stamp['commands'][0]}`",
        f"- commit: {stamp['commits'][0]}; torch {stamp['torch']}, numpy {stamp['numpy']}, "
        f"Python {stamp['python']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores", "",
        f"{found['operators']} operators, {found['samples']} samples, {found['checks']} checked "
        f"calls; {len(found['findings'])} findings, {len(found['guard_errors'])} operators with "
        f"guard errors, {len(found['changed_by_the_guard'])} changed by the guard.", "",
        f"Float calls: {total}, checked {calls.get('checked', 0) / total:.1%}, by more than a "
        f"rerun {calls.get('beyond rerun', 0) / total:.1%}.", "",
    ]
    for name in ("findings", "known_precision", "guard_errors", "harness", "changed_by_the_guard",
                 "changed_by_any_mode", "differ_without_a_guard"):
        lines += [f"## {name.replace('_', ' ').capitalize()} ({len(found[name])})", ""]
        lines += [f"- `{item}`" for item in found[name]] + [""]
    for name in ("not_tested", "rerun_only"):
        lines += [f"## {name.replace('_', ' ').capitalize()} (float calls)", ""]
        lines += [f"- {key}: {count}" for key, count in found[name].items()] + [""]
    return "\n".join(lines)


def main() -> None:
    """Run, write ``catalogue.json`` and ``README.md``, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--samples", type=int, default=6, help="samples per operator and dtype")
    parser.add_argument("--flips", type=int, default=0,
                        help="single flips per operator and dtype, instead of clean samples")
    parser.add_argument("--repeated", type=int, default=0,
                        help="samples per operator and dtype whose calls repeated faults strike")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)),
                        help="dtypes that run at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("reports/catalogue"))
    options = parser.parse_args()
    model = "repeated" if options.repeated else "transient"
    num_faults = options.repeated or options.flips
    with ThreadPoolExecutor(options.processes) as pool:
        of_dtypes = pool.map(
            lambda dtype: run_dtype(dtype, options.samples, num_faults, model), options.dtypes)
        rows = [row for rows in of_dtypes for row in rows]
    stamp = plain(make_stamp(" ".join(["python -m tests.catalogue.run", *sys.argv[1:]]), seed=0))
    options.out.mkdir(parents=True, exist_ok=True)
    if num_faults:
        text, enough = power_page(rows, stamp, model)
        (options.out / f"power-{model}.md").write_text(text)
        print(text)
        sys.exit(not enough)
    found = summary(rows)
    text = json.dumps({"stamp": stamp, "summary": found}, indent=1)
    (options.out / "catalogue.json").write_text(text + "\n")
    (options.out / "README.md").write_text(page(found, stamp))
    print(page(found, stamp)[:3000])
    if found["findings"] or found["guard_errors"] or found["harness"] \
            or found["changed_by_the_guard"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
