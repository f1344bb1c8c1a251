"""What the attacks came to, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from sdc_guard.bench.results import Stamp
from tests.soundness.attack import Cell
from tests.soundness.cases import DENSE_OUT, ONLY

LOOSE = 100.0
"""Tightness above which a contract is listed."""
SHOWN = 60
"""Letters of a place that a table shows."""


def _number(x: float) -> Any:
    """A ratio as JSON holds it: infinity as a word."""
    return x if math.isfinite(x) else "infinite"


def as_json(stamp: Stamp, cells: list[Cell], skipped: dict[str, str], asked: dict[str, Any]) -> str:
    """Every cell, and what was not attacked and why."""
    rows = []
    for cell in cells:
        row = dataclasses.asdict(cell)
        for bound in ("contract", "proof", "flushed"):
            row[bound]["ratio"] = _number(row[bound]["ratio"])
        row["tightness"] = _number(cell.tightness) if cell.bounded else None
        rows.append(row)
    whole = {"stamp": msgspec.to_builtins(stamp), "asked": asked, "cells": rows,
             "not_attacked": skipped}
    return json.dumps(whole, indent=1) + "\n"


def read(folder: Path) -> tuple[Stamp, list[Cell], dict[str, str]] | None:
    """Stamp, cells, and what was not attacked, of a file in the folder; None where there is
    none."""
    path = folder / "soundness.json"
    if not path.exists():
        return None
    whole = json.loads(path.read_text())
    for row in whole["cells"]:
        for bound in ("contract", "proof", "flushed"):
            row[bound]["ratio"] = float(str(row[bound]["ratio"]).replace("infinite", "inf"))
    return (msgspec.convert(whole["stamp"], Stamp), msgspec.convert(whole["cells"], list[Cell]),
            whole["not_attacked"])


def broken(cells: list[Cell]) -> list[str]:
    """One line for each broken bound found."""
    return [f"{cell.packet} {cell.dtype}: {text}" for cell in cells for text in cell.broken]


def _families(cells: list[Cell]) -> list[str]:
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.family, cell.dtype].append(cell)
    lines = ["| family | dtype | ops | Hypothesis examples | evaluations | emulated | "
             "worst error / contract | worst error / proof | broken |",
             "|---|---|---|---|---|---|---|---|---|"]
    for (family, dtype), group in sorted(groups.items()):
        bounded = [c for c in group if c.bounded]
        contract = max((c.contract.ratio for c in bounded if not c.known), default=0.0)
        proof = max((c.proof.ratio for c in bounded), default=0.0)
        counts = (sum(getattr(c, name) for c in group)
                  for name in ("examples", "evaluations", "emulated"))
        told = " | ".join(f"{n:,}" for n in counts)
        ratios = f"{contract:.4f} | {proof:.4f}" if bounded else "exact | exact"
        lines.append(f"| {family} | {dtype} | {len(group)} | {told} | {ratios} | "
                     f"{sum(len(c.broken) for c in group)} |")
    return lines


def _tightest(cells: list[Cell]) -> dict[str, Cell]:
    """The cell of each packet whose error came nearest to the contract."""
    best: dict[str, Cell] = {}
    for cell in cells:
        if cell.bounded and (cell.packet not in best
                             or cell.contract.ratio > best[cell.packet].contract.ratio):
            best[cell.packet] = cell
    return best


def loose(cells: list[Cell]) -> list[Cell]:
    """Cells whose contract is more than :data:`LOOSE` times the worst error found."""
    return sorted((c for c in cells if c.bounded and not c.why_not and c.tightness > LOOSE),
                  key=lambda c: -c.tightness)


def as_page(stamp: str, cells: list[Cell], skipped: dict[str, str]) -> str:
    """The page: totals by family, broken bounds, tightness, what was not attacked."""
    found, far = broken(cells), loose(cells)
    best = _tightest(cells)
    total = sum(c.evaluations for c in cells)
    examples = sum(c.examples for c in cells)
    lines = ["# Every bound under attack", "", stamp, "",
             f"{total:,} result elements of correct evaluations judged, {examples:,} Hypothesis "
             f"examples, {len(cells)} pairs of op and dtype: {len(found)} broken bounds.", "",
             "An evaluation is correct if it is torch's kernel, or an emulation in the working "
             "format in another order, fused or not. Emulations attack the proof; the contract "
             "where it names their algorithm. A ratio above 1 is a broken bound.", "",
             *_families(cells), "", "## Broken bounds", "",
             *([f"- {text}" for text in found] or ["None."]), "",
             "## Loose contracts", "",
             f"Tightness: the contract over the worst legitimate error found. Above {LOOSE:.0f}:",
             "", *([f"- {c.packet} {c.dtype}: {_told(c.tightness)}; {_why_loose(c)}"
                    for c in far] or ["None."]), "",
             "## Tightness by op", "",
             "| op | tightness | dtype | worst legitimate error by | proof: worst ratio |",
             "|---|---|---|---|---|"]
    for packet, cell in sorted(best.items(), key=lambda item: -item[1].tightness):
        proof = max(c.proof.ratio for c in cells if c.packet == packet)
        known = " (known loss of precision)" if cell.known and cell.contract.ratio > 1 else ""
        lines.append(f"| {packet} | {_told(cell.tightness)}{known} | {cell.dtype} | "
                     f"{cell.contract.place[:SHOWN]} | {proof:.3g} |")
    flushed = [c for c in cells if c.flushed.ratio > 1]
    lines += ["", "## While subnormals are flushed", "",
              "Nothing is claimed there: such calls are repeated and no more (ARCHITECTURE). Of "
              f"{len(cells)} pairs, {len(flushed)} then have errors beyond a bound.", "",
              "## Exact", "",
              "Every limit is 0, and every bit was right: "
              + ", ".join(sorted({c.packet for c in cells if c.why_not.startswith("exact")})) + ".",
              "", "## Not attacked", "",
              *[f"- {name}: {why}" for name, why in sorted(skipped.items())], "",
              "Layouts that a kernel does not take, or gets wrong (tests/soundness/cases.py), were "
              "left out:", "",
              *[f"- {packet}: only {', '.join(layouts)}" for packet, layouts in ONLY.items()],
              *[f"- {packet}: no gaps in the result of `out=`" for packet in sorted(DENSE_OUT)]]
    return "\n".join(lines) + "\n"


def _why_loose(cell: Cell) -> str:
    if cell.contract.ratio:
        return f"worst by {cell.contract.place}"
    if cell.dtype in ("float64", "complex128"):
        return "the kernel gives the bits of our own float64 evaluation, which the limit allows for"
    return "no result that was not exact"


def _told(tightness: float) -> str:
    return f"{tightness:.3g}" if math.isfinite(tightness) else "no error found"


def write(folder: Path, json_text: str, page: str) -> None:
    """Both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("soundness.json", json_text), ("soundness.md", page)):
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)
