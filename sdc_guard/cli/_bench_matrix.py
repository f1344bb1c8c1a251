"""The kinds of ``sdc-guard bench`` that set every detector against the same faults."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdc_guard.cli._progress import available_cores, command_line

if TYPE_CHECKING:
    from sdc_guard.bench.benchfile import BenchFile
    from sdc_guard.bench.matrix import Wish

QUICK_MINUTES = 2.5
"""Of faults, shared equally by the detectors; the rest of the quick form takes a minute."""
QUICK_DETECTORS = ("sdc_guard all", "sdc_guard 0.5 %", "sdc_guard 1 %", "sdc_guard 2 %",
                   "sdc_guard 5 %", "rerun and compare", "float64 recompute",
                   "NaN and loss-spike watch", "step replay", "gradient statistics",
                   "debug-mode hashes", "sdcguard 0.4.0")
HARM_WORKLOADS = ("gpt-tiny",)
MINUTE_S = 60.0


def faults(options: dict[str, Any]) -> None:
    """Try faults, after clean steps, and add what became of them to the file."""
    from sdc_guard.bench.crew import work
    from sdc_guard.bench.matrix import Book

    contents = _known(options)
    book = Book(contents, lambda file: _save(options, file), _told)
    jobs = _wish(options).jobs(contents)
    num_processes = options["processes"] or (available_cores() if options["quick"] else 1)
    minutes = options["minutes"] or (QUICK_MINUTES if options["quick"] else None)
    if minutes is not None and jobs:
        limit_s = minutes * MINUTE_S * num_processes / len(jobs)
        jobs = [replace(job, limit_s=limit_s) for job in jobs]
    _told(f"{sum(len(job.faults) for job in jobs)} faults to try in {len(jobs)} jobs")
    try:
        deaths = work(jobs, book.take, num_processes=num_processes)
    finally:  # what was tried before Ctrl-C is known
        book.save()
    for death in deaths:
        _told(f"a process died: {death}")


def cost(options: dict[str, Any]) -> None:
    """Time plain and watched steps in turn."""
    import msgspec

    from sdc_guard.bench.cost import measure_cost
    from sdc_guard.bench.crew import builder
    from sdc_guard.bench.detectors.table import DETECTORS
    from sdc_guard.errors import UsageError

    wish = _wish(options)
    num_pairs = options["pairs"] or (6 if options["quick"] else 12)
    for workload, dtype, name in itertools.product(wish.workloads, wish.dtypes, wish.detectors):
        for num_threads in options["threads"] or (1,):
            try:
                detector = DETECTORS[name]()
                found = measure_cost(
                    detector, builder(workload, dtype, wish.seed, wish.device), name=name,
                    label=workload, dtype=dtype, device=wish.device, seed=wish.seed,
                    num_threads=num_threads, num_pairs=num_pairs)
            except UsageError as error:
                _told(f"{name}: not measured: {error}")
                break
            _told(f"{name} on {workload}, {dtype}, {num_threads} threads: "
                  f"{found.total_ratio.value:.3f} times a plain step "
                  f"[{found.total_ratio.low:.3f}, {found.total_ratio.high:.3f}]")
            contents = _known(options)
            others = [c for c in contents.costs
                      if (c.detector, c.workload, c.dtype, c.device, c.num_threads) != (
                          name, workload, dtype, wish.device, num_threads)]
            _save(options, msgspec.structs.replace(contents, costs=(*others, found)))


def harm(options: dict[str, Any]) -> None:
    """Train with faults that nobody watches for, and see what becomes of the loss."""
    import msgspec

    from sdc_guard.bench.crew import builder
    from sdc_guard.bench.harm import HarmRun
    from sdc_guard.errors import UsageError

    wish = _wish(options)
    num_steps = options["steps"] or (50 if options["quick"] else 200)
    num = min(wish.num, 1) if options["quick"] else wish.num
    workloads = wish.workloads if options["workloads"] or options["model"] else HARM_WORKLOADS
    for workload, dtype in itertools.product(workloads, wish.dtypes):
        try:
            run = HarmRun(builder(workload, dtype, wish.seed, wish.device), seed=wish.seed,
                          num_steps=num_steps, num_controls=4 if options["quick"] else 16)
        except UsageError as error:
            _told(f"harm on {workload}, {dtype}: not measured: {error}")
            continue
        for name in wish.faults:
            found = run.measure(name, range(num), label=workload, dtype=dtype, device=wish.device)
            _told(f"{name} on {workload}, {dtype}: {len(found.harmful)} of {len(found.changes)} "
                  f"changed the loss by more than {found.noise:.2g}")
            contents = _known(options)
            others = [h for h in contents.harms if (h.workload, h.dtype, h.fault, h.device) != (
                workload, dtype, name, wish.device)]
            _save(options, msgspec.structs.replace(contents, harms=(*others, found)))


def page(options: dict[str, Any]) -> None:
    """Renew the page and its figures from the file; in a checkout's own reports, the README's
    claims too."""
    from sdc_guard.bench.benchfile import merge, read, write
    from sdc_guard.bench.pages.write import write_page, write_pages
    from sdc_guard.plain_json import plain

    path = result_path(options)
    contents = read(path)
    for other in options["joined"]:
        contents = merge(contents, read(other))
    if options["joined"]:
        write(path, contents)
    readme = Path("README.md")
    if options["out"] is None and readme.exists():
        write_pages(path.parent.parent, readme)
    else:
        write_page(path.parent)
    click.echo(json.dumps(plain(contents), allow_nan=False) if options["as_json"]
               else (path.parent / "README.md").read_text(encoding="utf-8"))


def everything(options: dict[str, Any]) -> None:
    """Cost, faults, harm, page."""
    for kind in (cost, faults, harm, page):
        kind(options)


MATRIX_KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "all": everything, "faults": faults, "cost": cost, "harm": harm, "page": page,
}


def _wish(options: dict[str, Any]) -> Wish:
    from sdc_guard.bench.detectors.table import DETECTORS
    from sdc_guard.bench.matrix import Wish
    from sdc_guard.bench.workloads.table import WORKLOADS
    from sdc_guard.inject import MODELS

    quick = options["quick"]
    if options["model"]:
        workloads: Sequence[str] = (options["model"],)
    else:
        workloads = _chosen(options["workloads"], WORKLOADS, "workload") or (
            ("gpt-tiny",) if quick else tuple(n for n in WORKLOADS if n != "gpt-demo"))
    return Wish(
        detectors=_chosen(options["detectors"], DETECTORS, "detector") or (
            QUICK_DETECTORS if quick else tuple(DETECTORS)),
        workloads=tuple(workloads),
        dtypes=("own",) if options["model"] else tuple(options["dtypes"]) or (
            ("fp32",) if quick else ("fp32", "bf16")),
        faults=_chosen(options["faults"], MODELS, "fault") or tuple(MODELS),
        num=options["num"] or (2 if quick else 20), num_clean=20 if quick else 100,
        seed=options["seed"], device=options["device"])


def _chosen(names: Sequence[str], table: dict[str, Any], what: str) -> tuple[str, ...]:
    from sdc_guard.errors import UsageError

    for name in names:
        if name not in table:
            raise UsageError(f"no {what} {name!r}; there are: {', '.join(table)}")
    return tuple(names)


def result_path(options: dict[str, Any]) -> Path:
    """Where ``bench.json`` lies."""
    return Path(options["out"] or "reports/bench") / "bench.json"


def _known(options: dict[str, Any]) -> BenchFile:
    from sdc_guard.bench.benchfile import BenchFile, read

    path = result_path(options)
    return read(path) if path.exists() else BenchFile()


def _save(options: dict[str, Any], contents: BenchFile) -> None:
    from sdc_guard.bench.benchfile import BenchFile, merge, write
    from sdc_guard.bench.results import make_stamp

    stamp = make_stamp(command_line(), options["seed"])
    write(result_path(options), merge(contents, BenchFile(stamps=(stamp,))))


def _told(text: str) -> None:
    click.echo(text, err=True)
