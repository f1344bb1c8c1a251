"""Repeat the recorded call of an sdc_guard bundle.  Needs torch and the standard library only.

Usage: ``python finding.sdcz [--runs N] [--device cpu] [--threads N]``, or
``python replay.py finding.sdcz`` with ``replay.py`` taken out of the bundle.

The operands are rebuilt with their exact
bits, strides, address modulo 64 bytes and shared memory; the recorded thread count and numeric
flags are set; then the call is made and its bits are compared with the recorded results.

Exit code: 1 the wrong result comes out again, 0 the expected one does, 3 neither, 2 wrong usage
or an unreadable bundle, 4 an error in this script, 5 the bundle holds no tensors.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import traceback
from typing import Any

from torch import Tensor

from .archive import Contents, Unreadable, read
from .rebuild import arguments_of, make_call, resolve_op
from .switches import settings

_OWN_BUNDLE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bytes_of(tensor: Tensor) -> bytes:
    """The tensor's bits in C order."""
    host = tensor.detach().cpu().contiguous()
    return ctypes.string_at(host.data_ptr(), host.numel() * host.element_size())


def num_different(a: bytes, b: bytes, itemsize: int) -> int:
    """How many elements differ; compared as Python bytes, by no kernel of torch."""
    if len(a) != len(b):
        return max(len(a), len(b)) // itemsize
    block = 1024 * itemsize
    return sum(
        a[j : j + itemsize] != b[j : j + itemsize]
        for i in range(0, len(a), block)
        if a[i : i + block] != b[i : i + block]
        for j in range(i, min(i + block, len(a)), itemsize)
    )


def _num_wrong(contents: Contents, result: Tensor | None, entry: dict[str, Any] | None) -> int:
    if result is None or entry is None:
        return int((result is None) is not (entry is None))
    dtype = str(result.dtype).removeprefix("torch.")
    if (dtype, list(result.shape)) != (entry["dtype"], entry["shape"]):
        return max(1, result.numel())
    stored = contents.members[entry["member"]]
    return num_different(bytes_of(result), stored, result.element_size())


def classify(contents: Contents, results: list[Tensor | None]) -> tuple[str, list[str]]:
    """``held``, ``expected`` or ``other``, and one line per output that says what differs."""
    held, expected = contents.manifest["held"], contents.manifest["expected"]
    if len(results) != len(held):
        return "other", [f"{len(results)} outputs here, {len(held)} then"]
    lines, is_held, is_expected = [], True, any(e is not None for e in expected)
    for i, (result, then, right) in enumerate(zip(results, held, expected, strict=True)):
        counts = {"held": _num_wrong(contents, result, then)}
        if right is not None:
            counts["expected"] = _num_wrong(contents, result, right)
        is_held &= counts["held"] == 0
        is_expected &= counts.get("expected", 0) == 0
        text = " and ".join(f"{n} from the {word} result" for word, n in counts.items())
        size = 0 if result is None else result.numel()
        lines.append(f"output {i}: of {size} elements, {text} differ")
    return ("held" if is_held else "expected" if is_expected else "other"), lines


def main(argv: list[str] | None = None) -> int:
    """The script; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("bundle", nargs="?", default=_OWN_BUNDLE,
                        help="default: the one that this script lies in")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(argv)
    try:
        return _replay(read(options.bundle), options)
    except Unreadable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception:
        traceback.print_exc()
        return 4


def _replay(contents: Contents, options: argparse.Namespace) -> int:
    manifest = contents.manifest
    write = sys.stdout.write
    write(f"{manifest['op']}: {manifest['headline']}\n")
    if manifest["arguments"] is None:
        write(f"nothing to repeat: {manifest['note']}\n")
        return 5
    op = resolve_op(manifest["op"])
    threads = options.threads or manifest["num_threads"]
    outcomes = []
    with settings(manifest["flags"], threads):
        for i in range(max(1, options.runs)):
            args = arguments_of(contents, op, options.device)
            try:
                results = make_call(op, args)
            except Exception as error:  # an operator may raise anything; that is an outcome
                outcome, lines = "failed", [f"the call raised {type(error).__name__}: {error}"]
            else:
                outcome, lines = classify(contents, results)
            outcomes.append(outcome)
            write(f"run {i + 1}: {outcome}; " + "; ".join(lines) + "\n")
    if "held" in outcomes:
        write("the result that was in use then comes out again\n")
        return 1 if manifest["held_is_wrong"] else 0
    if set(outcomes) == {"expected"}:
        write("the expected result comes out here\n")
        return 0
    write("neither the result in use then nor the expected one comes out here\n")
    return 3

