"""What the programs said, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from sdc_guard.intervals import proportion
from tests.sweep_power.beside.tools import (
    CAUGHT,
    CLEAN,
    CRASHED,
    STRESS_NG,
    SUSPECTED,
    Said,
    Tool,
)

TEXT = """\
Each program runs on all cores for {seconds:g} seconds, its start included, one after the other. In
two of three rounds single bits are flipped meanwhile, {per_s:g} times a second, in vector registers
of whatever thread of it computes on one core (ptrace, the same injector for all, from the fourth
second on). Most flips hit a register that is dead, or an address: what is not seen need not have
been wrong, and a crash is seen by everybody. So the programs are compared with each other, and no
rate here is that of defects. {absent}
"""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One run; ``core`` is where bits were flipped, None for nowhere."""

    tool: str
    core: int | None
    flips: int
    said: Said
    elapsed_s: float


def _share(count: int, num: int) -> str:
    if not num:
        return "not run"
    interval = proportion(count, num)
    return f"{count} of {num} [{100 * interval.low:.0f}, {100 * interval.high:.0f}] %"


def page(
    trials: Sequence[Trial], tools: Sequence[Tool], stamp: dict[str, Any], seconds: float,
    per_s: float,
) -> str:
    """The whole page."""
    names = {tool.name for tool in tools}
    absent = [name for name in (STRESS_NG.name, "OpenDCDiag") if name not in names]
    lines = [
        "# Beside stress-ng and OpenDCDiag", "",
        *(f"- command: `{command}`" for command in stamp["commands"]),
        f"- commit: {', '.join(stamp['commits'])}; seed {stamp['seed']}; torch {stamp['torch']}, "
        f"Python {stamp['python']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores, load "
        f"{stamp['load']:.1f}", "",
        TEXT.format(seconds=seconds, per_s=per_s, absent=(
            f"Not there to be run: {', '.join(absent)}." if absent else "")).rstrip(), "",
        "## While bits are flipped", "",
        "| program | compares with | numbers said to be wrong | of these, the right core named and "
        "no other | suspected only | crashed | nothing said | flips in a run |",
        "|---|---|---|---|---|---|---|---|"]
    for tool in tools:
        mine = [t for t in trials if t.tool == tool.name and t.core is not None]
        words = [t.said.word for t in mine]
        caught = [t for t in mine if t.said.word == CAUGHT]
        named = sum(t.said.named == (t.core,) for t in caught)
        flips = f"{median(t.flips for t in mine):.0f}" if mine else ""
        lines.append(
            f"| {tool.name} | {tool.compares} | {_share(len(caught), len(mine))} | "
            f"{_share(named, len(caught)) if caught else 'none'} | {words.count(SUSPECTED)} | "
            f"{words.count(CRASHED)} | {words.count(CLEAN)} | {flips} |")
    lines += ["", "## Without a fault, and what is checked", "",
              "| program | clean | it counts | per second |", "|---|---|---|---|"]
    for tool in tools:
        mine = [t for t in trials if t.tool == tool.name and t.core is None]
        clean = sum(t.said.word == CLEAN for t in mine)
        kinds = sorted({kind for t in mine for kind in t.said.rates})
        rates = "; ".join(f"{median(t.said.rates.get(kind, 0.0) for t in mine):.3g} {kind}"
                          for kind in kinds)
        lines.append(f"| {tool.name} | {_share(clean, len(mine))} | {tool.counts} | "
                     f"{rates or 'nothing'} |")
    odd = [t for t in trials if t.said.word not in (CLEAN, CAUGHT)]
    if odd:
        lines += ["", "## Neither clean nor caught", "", *(
            f"- {t.tool}, {'no flips' if t.core is None else f'core {t.core}, {t.flips} flips'}: "
            f"{t.said.word}" for t in odd)]
    return "\n".join(lines) + "\n"
