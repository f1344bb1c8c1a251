"""The README's measured claims, every number from a report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sdc_guard.bench import benchfile
from sdc_guard.bench.detection import Campaign, CleanRun
from sdc_guard.bench.overhead import Overhead
from sdc_guard.bench.pages.names import (
    ALL,
    NOT_MEASURED,
    detectors,
    dtype_of,
    is_demo_gpt,
    label,
)
from sdc_guard.bench.pages.summary import alarms
from sdc_guard.bench.pages.tally import (
    best_costs,
    false_alarms,
    measured,
    num_distinct,
    of_detector,
    on_device,
    share,
)
from sdc_guard.bench.pages.text import bracket, counted, per_million, percent, ratio, table, wrapped
from sdc_guard.bench.results import CleanFile, DetectionFile, OverheadFile, Stamp
from sdc_guard.errors import UsageError
from sdc_guard.intervals import Interval, proportion
from sdc_guard.records import Record

DTYPES = {"fp32": "fp32", "bf16 autocast": "bf16"}


def claims(reports: Path) -> str:
    """The text between the README's claims marks, from the files below ``reports``.  What has no
    file is ``not measured``.

    Raises:
        UsageError: if a file is there and cannot be read.
    """
    parts = [*_bench(reports), *_guard(reports),
             " ".join([*_models(reports), *_catalogue(reports)])]
    return "\n\n".join(part if part.startswith("|") else wrapped(part) for part in parts)


def _bench(reports: Path) -> list[str]:
    path = reports / "bench" / "bench.json"
    if not path.exists():
        return [f"Beside other detectors, on the same faults: {NOT_MEASURED}."]
    file = benchfile.read(path)
    cpu = on_device(file, "cpu")
    names = detectors(measured(cpu))
    rows = []
    for name in names:
        own = of_detector(cpu, name)
        cost = next((c for (w, d), c in best_costs(own.costs).items()
                     if is_demo_gpt(w) and dtype_of(d) == "fp32"), None)
        found = [share(c for c in own.cells if c.kind == kind)
                 for kind in ("transient", "repeated", "deterministic")]
        rows.append([label(name), ratio(cost.total_ratio if cost else None),
                     *(counted(s.found, s.num) for s in found), alarms(false_alarms(own.clean))])
    return [
        f"The same injected faults, every detector, on CPU: {sum(c.injected for c in file.cells)} "
        f"injected, {num_distinct(file.cells)} different ones. Costs, delays, harm, and what falls "
        "short: [reports/bench](reports/bench).",
        table(["detector", "cost, demo GPT fp32", "one-off transients found", "repeated found",
               "deterministic found", "false alarms per million checks"], rows),
        "A one-off transient is seen about as often as the share of work that is checked. Faults "
        "were tried on small models too, whose short steps leave a budget time for few checks."]


_Kind = TypeVar("_Kind")


def _optional(path: Path, kind: type[_Kind]) -> _Kind | None:
    """The file's contents; None if there is none."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no {kind.__name__}: {error}") from error


def _guard(reports: Path) -> list[str]:
    """The guard alone on the demo GPT, from ``reports/guard``."""
    guard = reports / "guard"
    transient = _optional(guard / "transient" / "detection.json", DetectionFile)
    repeated = _optional(guard / "repeated" / "detection.json", DetectionFile)
    clean = [_optional(guard / f"clean-{short}" / "clean.json", CleanFile)
             for short in DTYPES.values()]
    cost = _optional(guard / "overhead" / "overhead.json", OverheadFile)
    runs = [_of_dtype(file.runs if file else (), dtype)
            for file, dtype in zip(clean, DTYPES, strict=True)]
    stamps = [f.stamp for f in (transient, repeated, *clean, cost) if f is not None]
    rows = [
        ["single transient bit flips, any op, element and bit, called `corruption` in their step",
         *(_campaign(transient, dtype, 1) for dtype in DTYPES)],
        [_repeated_text(repeated), *(_campaign(repeated, dtype, None) for dtype in DTYPES)],
        [_steps_text(runs), *(str(run.num_findings) if run else NOT_MEASURED for run in runs)],
        ["coverage of calls and of FLOPs",
         *(_coverage(run) if run else NOT_MEASURED for run in runs)],
        *_cost_rows(cost)]
    return [f"The guard alone, {_machine(stamps)}demo GPT, `budget=\"all\"`; commands, seeds and "
            "intervals (95 %) are in [reports/guard](reports/guard).",
            table(["what", *DTYPES], rows), _small_budget(cost)]


def _machine(stamps: Iterable[Stamp]) -> str:
    found = list(dict.fromkeys(
        f"on one {s.num_cores}-core CPU machine ({_processor(s.processor)}, torch "
        f"{s.torch.partition('+')[0]})" for s in stamps))
    return " and ".join(found) + ", " if found else ""


def _processor(text: str) -> str:
    found = re.search(r"name (.*?)(?: vendor |$)", text)
    return found[1] if found else text


def _of_dtype(items: Iterable[Any], dtype: str) -> Any:
    return next((item for item in items if f", {dtype}," in f"{item.label},"), None)


def _campaign(file: DetectionFile | None, dtype: str, step: int | None) -> str:
    campaign: Campaign | None = _of_dtype(file.campaigns if file else (), dtype)
    if campaign is None or campaign.corruption.interval is None:
        return NOT_MEASURED
    rate = campaign.corruption
    found = rate.detected if step is None else campaign.found_in_step.get(str(step), 0)
    return f"{found} of {rate.injected} {_bracket(found, rate.injected)}"


def _bracket(found: int, num: int, digits: int = 1) -> str:
    low, high = bracket(proportion(found, num), digits)[1:-1].split(", ")
    return f"[{low} %, {high} %]"


def _repeated_text(file: DetectionFile | None) -> str:
    steps = sorted({c.steps_repeated for c in file.campaigns}) if file else []
    within = f" within {' or '.join(map(str, steps))} steps" if steps else ""
    return ("the same flip at its place in every call of an op and shape, called "
            f"`corruption`{within}")


def _steps_text(runs: Iterable[CleanRun | None]) -> str:
    measured_runs = [run for run in runs if run is not None]
    if not measured_runs:
        return "findings in clean steps"
    steps = " and ".join(str(n) for n in sorted({run.num_steps for run in measured_runs}))
    checks = min(sum(run.checks_by_witness.values()) for run in measured_runs)
    return f"findings in {steps} clean steps (at least {checks:,} checks each)"


def _coverage(run: CleanRun) -> str:
    shares = dict.fromkeys([percent(run.call_share), percent(run.flop_share)])
    return " and ".join(shares)


def _cost_rows(file: OverheadFile | None) -> list[list[str]]:
    if file is None:
        return [["a guarded step against a plain one", *[NOT_MEASURED] * len(DTYPES)]]
    settings = dict.fromkeys((str(r.budget), r.num_threads) for r in file.results)
    rows = []
    for budget, threads in sorted(settings, key=lambda s: (s[0] != ALL, s)):
        what = "" if budget == ALL else f" at `budget={budget}`"
        cells = [_find(file, dtype, budget, threads) for dtype in DTYPES]
        rows.append([f"a guarded step against a plain one{what}, {threads} thread"
                     f"{'' if threads == 1 else 's'}",
                     *(_ratio(r.ratio) if r else NOT_MEASURED for r in cells)])
    return rows


def _ratio(found: Interval) -> str:
    digits = 1 if found.value >= 2 else 2
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _find(file: OverheadFile, dtype: str, budget: str, threads: int) -> Overhead | None:
    found: Overhead | None = _of_dtype(
        (r for r in file.results if (str(r.budget), r.num_threads) == (budget, threads)), dtype)
    return found


def _small_budget(file: OverheadFile | None) -> str:
    """Why the cost is what it is, with what a small budget looks at."""
    text = ("A small model pays most for `\"all\"`: most of the extra time is the products once "
            "more, and Python around hundreds of small optimizer calls.")
    results = [r for r in file.results if isinstance(r.budget, float) and r.budget > 0] \
        if file else []
    if not results:
        return text
    least = min(results, key=lambda r: r.budget)
    shares = [r.call_share for r in results if r.budget == least.budget]
    low, high = percent(min(shares)), percent(max(shares))
    told = low if low == high else f"{low.removesuffix(' %')} to {high}"
    return f"{text} On such a model a budget of {100 * float(least.budget):g} % looks at {told} " \
        "of the calls."


class ModelRow(Record, frozen=True, kw_only=True):
    """What the README tells of a row of ``models.json``."""

    model: str
    dtype: str
    equal_bits: bool
    findings: tuple[Any, ...]
    checks: int


class ModelsFile(Record, frozen=True, kw_only=True):
    """``models.json``."""

    rows: tuple[ModelRow, ...]


class CatalogueSummary(Record, frozen=True, kw_only=True):
    """What the README tells of ``catalogue.json``."""

    operators: int
    checks: int
    findings: tuple[Any, ...]


class CatalogueFile(Record, frozen=True, kw_only=True):
    """``catalogue.json``."""

    summary: CatalogueSummary


def _models(reports: Path) -> list[str]:
    file = _optional(reports / "models" / "models.json", ModelsFile)
    if file is None or not file.rows:
        return [f"Architectures trained under the guard: {NOT_MEASURED}."]
    rows = file.rows
    checks, found = sum(r.checks for r in rows), sum(len(r.findings) for r in rows)
    equal = sum(r.equal_bits for r in rows)
    told = f"{equal} of {len(rows)}" if equal < len(rows) else f"all {len(rows)}"
    dtypes = [name for name, short in DTYPES.items() if any(r.dtype == short for r in rows)]
    return [f"Elsewhere: {len({r.model for r in rows})} architectures in {' and '.join(dtypes)}; "
            f"{told} runs trained to equal bits with and without the guard, with {_none(found)} in "
            f"{checks / 1e6:.1f} million checks ({per_million(proportion(found, checks))} per "
            "million, 95 %; [reports/models](reports/models))."]


def _none(found: int) -> str:
    return "no false alarm" if found == 0 else f"{found} false alarm{'' if found == 1 else 's'}"


def _catalogue(reports: Path) -> list[str]:
    folder = reports / "catalogue"
    file = _optional(folder / "catalogue.json", CatalogueFile)
    text = [f"torch's own operator catalogue: {NOT_MEASURED}."]
    if file is not None:
        found = file.summary
        text = [f"In torch's own operator catalogue, {found.operators} operators, "
                f"{_none(len(found.findings))} in {found.checks:,} checks "
                "([reports/catalogue](reports/catalogue))."]
    page = folder / "power-repeated.md"
    if page.exists():
        counts = power_counts(page.read_text(encoding="utf-8"))
        bound, num = counts["found"], counts["of"]
        text.append(
            f"Of {num:,} faults there that strike every execution of one kernel (a flipped bit, an "
            "element misread at one place or for one number, with an effect above twice the "
            f"bound) {bound:,} were found {_bracket(bound, num, 2)}. Of {counts['of, no bound']:,} "
            f"more in results that no bound of ours judges, {counts['found, no bound']:,} were.")
    return text


def power_counts(page: str) -> Counter[str]:
    """Sums of the table of ``power-repeated.md``: ``found`` and ``of``, and both with ``, no
    bound``.

    Raises:
        UsageError: if the page has no row of that table.
    """
    counts: Counter[str] = Counter()
    for kind, found, num in re.findall(r"^\| \w+ \| ([^|]+) \| (\d+) \| (\d+) \|", page,
                                       flags=re.MULTILINE):
        apart = ", no bound" if kind.endswith(", no bound") else ""
        counts[f"found{apart}"] += int(found)
        counts[f"of{apart}"] += int(num)
    if not counts["of"]:
        raise UsageError("the page of repeated faults has no table of dtype, kind, found and of: "
                         "make it again with tests.catalogue.run --repeated")
    return counts
