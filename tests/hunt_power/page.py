"""The table of what was found, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sdc_guard.hunt.throughput import Rate
from sdc_guard.intervals import proportion
from tests.hunt_power.mutant import Mutant
from tests.hunt_power.outcome import Outcome

HEADS = {"hunt": "the hunt", "catalogue": "torch's catalogue, once", "random": "random, contiguous",
         "survey": "ulpwise survey"}
Results = Mapping[tuple[str, str], Outcome]
"""Outcomes by (method, mutant)."""

TEXT = """\
Each mutant is a kernel of torch's CPU backend that is wrong for some calls, put in place of the
right one for every caller in the process; kinds and conditions are those of real bugs (`like`), and
`tests/hunt_power/test_mutants.py` shows for each a call that it spoils and one that it does not.
**The hunt** searches the mutant's operator (`--ops` with its aten and its public name) for
{seconds:.0f} s on one core, as one worker does, with every oracle but `isa`, whose helper
processes have the right kernels. Found is what the hunt says of a
call and does not say of the same call with the right kernel, by any word but `inconclusive` and
`documented`. Times are from the first call on; reading templates and importing torch's compiler are
not counted.

The rivals get an oracle better than any that they have, the right kernel on the same call, and
compare with `torch.testing.assert_close` and its default tolerances: so these are upper bounds of
what they find. **torch's catalogue**: every sample of the operator's entries once, in every dtype,
forward and backward, also non-contiguous, in place and with `out=`. **Random**: Hypothesis,
contiguous tensors and plain arguments, {rival_seconds:.0f} s of the
process.
**ulpwise survey** (PyPI ulpwise 0.3.4, for pointwise mutants): any figure of its row that differs
from the right kernel's row; `none` where it has no such function.

95 % intervals; an interval of mutants speaks of bugs like these, not of all bugs.
"""


def share(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    known = list(outcomes)
    return sum(o.is_found for o in known), len(known)


def _rate(found: int, num: int) -> str:
    if not num:
        return "not measured"
    interval = proportion(found, num)
    return (f"{found} of {num}, {interval.value:.1%} "
            f"[{interval.low:.1%}, {interval.high:.1%}]")


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}` {count}" for word, count in Counter(words).most_common()) or "none"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.is_found:
        told = f" {outcome.word} ({outcome.by})" if outcome.word else ""
        return f"{outcome.found_s:.0f} s{told}"
    if outcome.reason:
        return "none" if outcome.reason.startswith("no function") else f"failed: {outcome.reason}"
    return "**missed**"


def page(results: Results, mutants: Mapping[str, Mutant], stamp: dict[str, Any],
         rates: tuple[Rate, ...], *, seconds: float, rival_seconds: float) -> str:
    """The whole page."""
    lines = ["# What the hunt finds of planted bugs", "",
             *(f"- command: `{command}`" for command in stamp["commands"]),
             f"- commit: {', '.join(stamp['commits'])}; seed {stamp['seed']}; torch "
             f"{stamp['torch']}, numpy {stamp['numpy']}, Python {stamp['python']}",
             f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores, "
             f"load {stamp['load']:.1f}", "",
             TEXT.format(seconds=seconds, rival_seconds=rival_seconds),
             "| | found | of pointwise mutants |", "|---|---|---|"]
    for method, head in HEADS.items():
        mine = {name: o for (m, name), o in results.items() if m == method}
        pointwise = share(o for name, o in mine.items() if mutants[name].is_pointwise)
        whole = _rate(*share(mine.values())) if method != "survey" else ""
        lines.append(f"| {head} | {whole} | {_rate(*pointwise)} |")
    mine = [o for (method, _), o in results.items() if method == "hunt"]
    if mine:
        found = [o for o in mine if o.is_found]
        lines += ["", f"The hunt's words: {_counted(o.word for o in found)}; by oracle: "
                  f"{_counted(o.by for o in found)}.",
                  "Calls on which the right kernel was accused alike, which count for nothing: "
                  f"{sum(o.also_without for o in mine)}."]
    lines += ["", "## Every mutant", "",
              "| mutant | kind | like | " + " | ".join(HEADS.values()) + " |",
              "|" + "---|" * (3 + len(HEADS))]
    for name, mutant in mutants.items():
        cells = [_cell(results.get((method, name))) for method in HEADS]
        lines.append(f"| {name} | {mutant.kind} | {mutant.like} | {' | '.join(cells)} |")
    lines += ["", "## Missed by the hunt", "", *_missed(results, mutants), ""]
    if rates:
        lines += ["## Throughput", "", *_throughput(rates), ""]
    return "\n".join(lines)


def _missed(results: Results, mutants: Mapping[str, Mutant]) -> list[str]:
    """Why: the search never came to it, or no oracle saw it."""
    lines = []
    for name, mutant in mutants.items():
        outcome = results.get(("hunt", name))
        if outcome is None or outcome.is_found:
            continue
        why = outcome.reason or (
            f"{outcome.calls} calls, of which none met the bug" if not outcome.wrong_calls else
            f"the bug spoilt {outcome.wrong_calls} executions in {outcome.calls} calls, and no "
            f"oracle said so{'; ' + outcome.message if outcome.message else ''}")
        lines.append(f"- {name} (`{mutant.ops}`): {why}")
    return lines or ["None."]


def _throughput(rates: tuple[Rate, ...]) -> list[str]:
    lines = ["Calls drawn, made and judged per second of one process on one core, as many of each "
             "built-in operator; `small` have at most 4096 elements. "
             "Judged: verdicts of oracles on calls of operators.", "",
             "| oracles | operator | calls per second | small | judged per second |",
             "|---|---|---|---|---|"]
    for r in rates:
        lines.append(
            f"| {r.oracles} | {r.op} | {r.trials / r.elapsed_s:.0f} | "
            f"{r.small / max(1, r.trials):.0%} | {r.judged / r.elapsed_s:.0f} |")
    for oracles in dict.fromkeys(r.oracles for r in rates):
        mine = [r for r in rates if r.oracles == oracles]
        elapsed_s = sum(r.elapsed_s for r in mine)
        lines.append(f"| {oracles} | **all** | **{sum(r.trials for r in mine) / elapsed_s:.0f}** | "
                     f"{sum(r.small for r in mine) / max(1, sum(r.trials for r in mine)):.0%} | "
                     f"**{sum(r.judged for r in mine) / elapsed_s:.0f}** |")
    return lines
