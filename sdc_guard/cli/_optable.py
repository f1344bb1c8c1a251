"""What is known of each checked operator, for ``sdc-guard ops``, by its file's own samples."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sdc_guard.bench.workload import intra_op_threads
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.errors import UsageError
from sdc_guard.ops import OpSpec, all_specs, lookup_complex

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
COMPLEX = (torch.complex64, torch.complex128)
SEED = 0


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _calls_of(spec: OpSpec | None, dtype: torch.dtype) -> list[Any]:
    if spec is None or spec.samples is None:
        return []
    return spec.samples(torch.Generator().manual_seed(SEED), dtype)


def row_of(spec: OpSpec) -> dict[str, Any]:
    """Op, family, witnesses, bound, dtypes of the samples, and for each relation that compiles on
    one of them the places that it moves; ``promised`` are those that we have seen to hold."""
    relations: dict[str, dict[str, Any]] = {}
    dtypes = []
    complex_spec = lookup_complex(spec.packet)
    judges = {**dict.fromkeys(DTYPES, spec), **dict.fromkeys(COMPLEX, complex_spec)}
    for dtype, judge in judges.items():
        calls = _calls_of(judge, dtype)
        if calls:
            dtypes.append(short(dtype))
        for op, args, kwargs in calls:
            form = form_of(op)
            call = BoundCall(form, form.bind(args, kwargs))
            assert judge is not None
            for relation in make_plan(judge, call, call.run_identical()).relations:
                known = relations.get(relation.name)
                if known is not None and dtype in COMPLEX:
                    continue  # what holds for real numbers is told
                relations[relation.name] = {
                    "moves": sorted(relation.symmetry.places),
                    "promised": relation.symmetry.known,
                }
    return {
        "op": spec.packet,
        "family": spec.family,
        "witnesses": list(spec.witnesses),
        "bound": spec.doc,
        "dtypes": dtypes,
        "relations": relations,
        "deterministic": spec.deterministic,
        "reduction": spec.reduction,
    }


@cache
def all_rows() -> tuple[dict[str, Any], ...]:
    """The rows of all specs, with one thread: what is promised may depend on their number."""
    with intra_op_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an operator that torch calls old is checked all the same
        return tuple(row_of(spec) for spec in all_specs())


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page ``docs/ops.md``."""
    lines = [
        "# Checked operators", "",
        "Made by `sdc-guard ops --markdown`. In-place and `out=` overloads are checked with the "
        "operator. A relation marked `?` holds for some shapes only: each call site learns it. "
        "Operators of ATen that are not here are repeated on copies of their operands, and no "
        "more.", "",
        "| operator | family | witnesses | relations, and what they move | dtypes |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        relations = "; ".join(
            f"{name}{'' if r['promised'] else ' ?'} ({', '.join(r['moves']) or 'nothing'})"
            for name, r in row["relations"].items())
        cells = (f"`{row['op']}`", row["family"], ", ".join(row["witnesses"]), relations,
                 ", ".join(row["dtypes"]))
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    lines += ["", "## Definitions and bounds", ""]
    for row in rows:
        text = " ".join(row["bound"].split())
        lines.append(f"- `{row['op']}`: {text}")
    return "\n".join(lines)


def load(target: str) -> Callable[[], object]:
    """The callable ``module:name``, looked for from the current folder first.

    Raises:
        UsageError: if there is none, with what was looked for.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"{target!r}: give MODULE:FUNCTION, a function that makes one training "
                         "step when it is called")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{target!r}: {error}") from error
    if not callable(found):
        raise UsageError(f"{target!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def missing(step: Callable[[], object]) -> list[dict[str, Any]]:
    """The operators that one call of ``step`` leaves unchecked, or checks by a rerun alone, with
    the reasons and counts."""
    import sdc_guard

    guard = sdc_guard.Guard(budget="all")
    with guard:
        step()
    rows = []
    for op in guard.coverage.ops:
        reasons = dict(op.not_tested)
        if op.witnesses.get("rerun"):
            reasons["rerun only: no file of its own takes the call"] = op.witnesses["rerun"]
        if reasons:
            rows.append({"op": op.op, "calls": op.calls, "reasons": reasons})
    return rows
