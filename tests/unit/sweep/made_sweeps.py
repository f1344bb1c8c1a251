"""Sweep documents of made-up hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdc_guard.document.reading import write_document
from sdc_guard.document.schema import (
    SCHEMA_VERSION,
    Cell,
    Report,
    Run,
    Sweep,
    SweptDigest,
    SweptTest,
    SweptUnit,
)
from sdc_guard.document.verdicts import verdict_of

MODEL = "CPU of a test"
RIGHT, OTHER, THIRD = "aa" * 16, "bb" * 16, "cc" * 16
KEY = "high_entropy | float32 64x64 | seed 7 | torch 2.13"


def sweep_of(
    host: str, digests: tuple[str, ...] = (RIGHT, RIGHT), *,
    words: Mapping[tuple[int, str], str] | None = None, key: str = KEY, is_complete: bool = True,
    num_units: int | None = None,
) -> Report:
    """A host with one core for each digest; ``words`` are those of (core, test), PASS where there
    is none."""
    words = words or {}
    num = len(digests) if num_units is None else num_units
    names = [f"{host}, core {n}" for n in range(num)]
    tests = ("exact_product", "high_entropy")
    cells = []
    for number, unit in enumerate(names):
        for test in tests:
            word = words.get((number, test), "PASS")
            cells.append(Cell(
                unit=unit, test=test, word=word, verdict=verdict_of("sweep", word),
                checks=0 if word == "SKIP" else 100, family="F1", oracle="exact",
                reason="as made" if word != "PASS" else ""))
    run = Run(id=f"sweep {host}", kind="sweep", rank=0, pid=1, host=host, source="",
              start_utc="2026-11-24T00:00:00+00:00", is_complete=is_complete, seed=7)
    return Report(
        schema_version=SCHEMA_VERSION, tool_version="0", title=f"sweep of {host}", sources=(),
        created_utc="2026-11-24T00:00:10+00:00", runs=(run,), cells=tuple(cells),
        sweep=Sweep(
            seed=7, budget_s=10.0, checks=100 * len(cells), is_partial=not is_complete,
            units=tuple(SweptUnit(id=u, kind="core", name=f"core {n}",
                                  facts={"host": host, "model": MODEL, "stepping": "1"})
                        for n, u in enumerate(names)),
            tests=tuple(SweptTest(name=t, family="F1") for t in tests),
            digests=tuple(SweptDigest(key=key, unit=u, digest=d, test="high_entropy")
                          for u, d in zip(names, digests, strict=False) if d)))


def written(folder: Path, *reports: Report) -> list[Path]:
    """Each as ``node-1.json`` and so on."""
    paths = []
    for report in reports:
        path = folder / f"{report.runs[0].host}.json"
        path.write_bytes(write_document(report))
        paths.append(path)
    return paths
