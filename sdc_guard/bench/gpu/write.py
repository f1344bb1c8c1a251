"""Runs the whole benchmark and keeps its files up to date while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sdc_guard.bench.gpu import gpt
from sdc_guard.bench.gpu.figures import GpuFile, Missing, Named
from sdc_guard.bench.gpu.job import TIME, Job, Setting
from sdc_guard.bench.gpu.jobs import JOBS
from sdc_guard.bench.gpu.page import render
from sdc_guard.bench.gpu.run import Results, run_jobs
from sdc_guard.bench.results import make_stamp
from sdc_guard.errors import UsageError

JSON, PAGE = "kernels.json", "kernels.md"
UNFINISHED = "the benchmark was ended before"


def measure_and_write(
    setting: Setting, folder: Path, *, command: str, commit: str = "", limit_s: float,
    jobs: Sequence[Job] = JOBS, tell: Callable[[str], None] = lambda line: None,
) -> GpuFile:
    """Run the jobs; ``kernels.json`` and ``kernels.md`` in ``folder`` hold what there is at any
    time.  ``commit`` is for a copy of a checkout that does not know it.

    Raises:
        UsageError: if ``limit_s`` is not positive.
    """
    if limit_s <= 0:
        raise UsageError(f"limit_s={limit_s}: give the seconds that the benchmark may take")
    started_s = time.monotonic()
    stamp = make_stamp(command, setting.seed)
    if commit:
        stamp = msgspec.structs.replace(stamp, commits=(commit,))
    folder.mkdir(parents=True, exist_ok=True)

    def contents(results: Results, otherwise: str) -> GpuFile:
        return GpuFile(
            stamp=stamp, device=setting.device, form=setting.form,
            model=gpt.described(setting.sizes.gpt), limit_s=limit_s,
            elapsed_s=time.monotonic() - started_s,
            figures=tuple(Named(name=n, figure=f) for n, f in results.figures.items()),
            missing=tuple(Missing(name=n, reason=r)
                          for n, r in results.missing(otherwise).items()))

    def save(results: Results) -> None:
        write(folder, contents(results, UNFINISHED))

    results = run_jobs(setting, jobs, limit_s=limit_s, save=save, tell=tell)
    is_late = time.monotonic() - started_s >= limit_s
    found = contents(results, TIME if is_late else "its job ended before")
    write(folder, found)
    return found


def write(folder: Path, contents: GpuFile) -> None:
    """Both files, each under a temporary name first."""
    encoded = msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n"
    for name, data in ((JSON, encoded), (PAGE, render(contents).encode())):
        temporary = folder / f"{name}.part"
        temporary.write_bytes(data)
        temporary.replace(folder / name)


def read(folder: Path) -> GpuFile:
    """What was written there.

    Raises:
        UsageError: if there is none, or something else.
    """
    path = folder / JSON
    try:
        return msgspec.json.decode(path.read_bytes(), type=GpuFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no result of bench kernels: {error}") from error
