"""``sdc-guard replay``: make a stored call again and say whether it still diverges here."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sdc_guard.evidence import Bundle, ReplayResult

_CLEAN, _REPRODUCED, _USAGE, _NEITHER, _NOTHING_TESTED = 0, 1, 2, 3, 5


@click.command("replay")
@click.argument("bundle", type=click.Path(exists=True))
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1),
              help="How often the call is made.")
@click.option("--device", default=None, help="Run there instead of on the recorded device.")
@click.option("--threads", default=None, type=click.IntRange(min=1),
              help="Intra-op threads instead of the recorded number.")
@click.option("--import", "modules", multiple=True, metavar="MODULE",
              help="Import this module first; it registers a custom operator.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    bundle: str,
    runs: int,
    device: str | None,
    threads: int | None,
    modules: tuple[str, ...],
    as_json: bool,
) -> None:
    """Repeat the call in BUNDLE on its exact operands and compare the bits.

    Exit code: 0 the expected result comes out, 1 the wrong one does, 2 wrong usage or an
    unreadable bundle, 3 neither, 4 internal error, 5 the bundle holds no call to repeat.

    \b
    Examples:
      sdc-guard replay runs/a/bundles/aten-sum-step41.sdcz
      sdc-guard replay --device cuda:1 --runs 10 BUNDLE
      sdc-guard replay --import mykernels --json BUNDLE
    """
    from sdc_guard.errors import SdcGuardError
    from sdc_guard.evidence import read_bundle, replay

    try:
        for module in modules:
            importlib.import_module(module)
        stored = read_bundle(bundle)
        result = None
        if stored.has_call:
            result = replay(stored, num_runs=runs, device=device, num_threads=threads)
    except (SdcGuardError, ImportError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_USAGE)
    click.echo(_as_json(stored, result) if as_json else _as_text(stored, result))
    sys.exit(_exit_code(stored, result))


def _exit_code(bundle: Bundle, result: ReplayResult | None) -> int:
    """A held result that was right (``held_is_wrong`` false) is no divergence when it returns."""
    if result is None:
        return _NOTHING_TESTED
    if result.reproduces == "held":
        return _REPRODUCED if bundle.finding.held_is_wrong else _CLEAN
    return _CLEAN if result.reproduces == "expected" else _NEITHER


def _as_json(bundle: Bundle, result: ReplayResult | None) -> str:
    from sdc_guard.plain_json import plain

    report: dict[str, Any] = {
        "bundle": str(bundle.path),
        "op": bundle.op,
        "note": bundle.note,
        "finding": bundle.finding,
        "result": result,
        "exit_code": _exit_code(bundle, result),
    }
    return json.dumps(plain(report), allow_nan=False)


def _as_text(bundle: Bundle, result: ReplayResult | None) -> str:
    finding = bundle.finding
    lines = [
        f"op         {bundle.op}",
        f"module     {finding.module or '(none)'}",
        f"source     {finding.source or 'unknown'}",
        f"step       {finding.step}, call {finding.call.call_index}, rank {finding.rank}, "
        f"device {finding.device}",
        f"verdict    {finding.verdict.value} ({finding.witness}: {finding.relation})",
        f"cause then {finding.cause.value}: {finding.attribution.reason}",
    ]
    lines += [
        f"operand    {m.name}: {m.dtype} {list(m.shape)} stride {list(m.stride)}, "
        f"address mod 64 = {m.alignment_bytes}"
        for m in finding.call.operands
    ]
    if finding.worst is not None:
        worst = finding.worst
        lines.append(f"worst then output {worst.output} at {list(worst.index)}: got "
                     f"{worst.got.repr} ({worst.got.bits}), expected {worst.expected.repr} "
                     f"({worst.expected.bits}), {worst.error_ulps:.6g} ulp")
    if bundle.note:
        lines.append(f"note       {bundle.note}")
    if result is None:
        return "\n".join([*lines, "replay     nothing to repeat"])
    lines.append(f"replay     {result.message}")
    for i, num_wrong in enumerate(result.wrong_from_held):
        expected = result.wrong_from_expected[i]
        against = "" if expected is None else f", {expected} from the expected"
        held = bundle.held[i]
        lines.append(f"output {i}   {num_wrong} of {0 if held is None else held.numel()} elements "
                     f"differ from the held result{against}")
    if result.worst is not None:
        worst = result.worst
        lines.append(f"worst here output {worst.output} at {list(worst.index)}: got "
                     f"{worst.got.repr} ({worst.got.bits}), reference {worst.expected.repr} "
                     f"({worst.expected.bits}), {worst.error_ulps:.6g} ulp")
    lines += [f"differs    {line}" for line in result.environment_differences]
    return "\n".join(lines)
