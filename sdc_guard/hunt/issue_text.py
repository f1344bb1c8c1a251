"""The text of an issue for PyTorch, one for each root cause: ready to paste, never sent by us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdc_guard.evidence.environment import collect_environment
from sdc_guard.hunt.exact import BY_BITS, CONFIRMED, WITHOUT_A_NUMBER
from sdc_guard.hunt.found import FoundDivergence

_NOT_SENT = ("<!-- Written by sdc-guard hunt and sent to nobody. Read it, run the script, search "
             "the known issues, then decide. -->")


def issue_text(group: Sequence[FoundDivergence]) -> str:
    """The text for findings of one root cause, the first of which stands for all."""
    first = group[0]
    parts = [_NOT_SENT, f"**Title:** {_title(first)}", "### \N{BUG} Describe the bug", _told(first)]
    if first.script:
        parts += [_shown(first), f"```python\n{first.script.rstrip()}\n```"]
    else:
        parts.append("There is no short script of it; the bundle holds the operands.")
    parts.append(_repetition(first))
    if first.link:
        parts.append(f"Documented: {first.link}")
    if len(group) > 1:
        parts.append(_others(group[1:]))
    return "\n\n".join([*parts, "### Versions", _versions(first, collect_environment())]) + "\n"


def _title(first: FoundDivergence) -> str:
    worst = first.finding.worst
    kind = {"corruption": "silently wrong result", "crash": "crash", "hang": "call never ends",
            "precision": "less accurate than its algorithm allows"}.get(first.word, first.word)
    layout = "" if first.layout_class == "contiguous" else f", {first.layout_class} input"
    dtype = worst.got.dtype if worst is not None else first.dtype_class
    return f"{first.op}: {kind} ({dtype}{layout}, {first.trial.device})"


def _told(first: FoundDivergence) -> str:
    worst = first.finding.worst
    if worst is None:
        seen = " Memory beside the results was compared bit for bit." * (
            first.exact_value == BY_BITS)
        return f"`{first.op}`: {first.message}.{seen}"
    lines = [f"`{first.op}` gives `{worst.got.repr}` (bits `{worst.got.bits}`) at "
             f"{list(worst.index)} of result {worst.output}."]
    if first.exact_value in WITHOUT_A_NUMBER:
        lines.append(f"{first.message}; {first.exact_value}.")
    elif first.exact == CONFIRMED:
        lines.append(f"The exact value is `{first.exact_value}`, from rational arithmetic "
                     "(Python's `fractions`; mpmath with 60 digits for functions that are not "
                     "rational), which shares nothing with torch.")
    elif worst.bound is None and worst.error_ulps < 0:  # a broken fact: there is no one right value
        lines.append(f"{first.message}.")
    else:
        lines.append(f"Expected `{worst.expected.repr}`, computed in float64 by another path; "
                     f"exact arithmetic: {first.exact}.")
    if worst.bound is not None and worst.bound.limit:
        lines.append(f"Rounding in any order of evaluation explains an error of at most "
                     f"{worst.bound.limit:.3g} here ({worst.bound.formula})."
                     if worst.bound.kind == "proof" else
                     f"The algorithm in use should err by at most {worst.bound.limit:.3g} here "
                     f"({worst.bound.formula}).")
    if worst.error_ulps >= 0:
        lines.append(f"The error is {worst.error_ulps:.3g} ulps.")
    return " ".join(lines)


def _shown(first: FoundDivergence) -> str:
    return {
        "wrong": "This script needs torch alone; it ends with WRONG here:",
        "crash": "This script needs torch alone; it kills its process here:",
        "hang": "This script needs torch alone; it does not end here:",
        "not run": "This script needs torch alone; it was not run apart from the hunt:",
    }.get(first.script_shows, "This script makes the call with torch alone. **In a fresh process "
          f"it did not show the divergence ({first.script_shows}):** it depends on what the "
          "process did before, or on the machine.")


def _repetition(first: FoundDivergence) -> str:
    if not first.tried:
        return "The call was not repeated in this process, because it may end it."
    tally = f"Wrong in {first.wrong} of {first.tried} repetitions of the call."
    if first.wrong == first.tried:
        cause = first.finding.attribution
        return f"{tally} Cause: {cause.cause.value} ({cause.reason})."
    return f"{tally} {_hardware_question(first)}"


def _hardware_question(first: FoundDivergence) -> str:
    times = "It comes and goes" if first.wrong else "It did not come again"
    return (f"{times}: a race, memory that is read before it is set, or hardware that computes "
            "wrong now and then. **Is this machine sound?** Run the script on another one, and a "
            "sweep of this one, before reporting a bug of PyTorch.")


def _others(rest: Sequence[FoundDivergence]) -> str:
    rows = [f"| `{o.op}` | {o.word} | {o.oracle} | {o.dtype_class} | {o.layout_class} | "
            f"{o.magnitude_class} | {o.wrong} of {o.tried} | `{o.fingerprint}` |" for o in rest]
    return "\n".join([
        "Probably of the same cause:", "",
        "| operator | word | oracle | dtype | layout | error | again | script |",
        "|---|---|---|---|---|---|---|---|", *rows])


def _versions(first: FoundDivergence, environment: dict[str, Any]) -> str:
    cpu = environment.get("cpu")
    model = cpu.get("name", "unknown") if isinstance(cpu, dict) else cpu
    python = str(environment["python"]).split(" ", 1)[0]
    lines = [
        f"PyTorch version: {environment['torch']} (git {environment['torch_git']})",
        f"Python version: {python}", f"NumPy version: {environment['numpy']}",
        f"OS: {environment['platform']}", f"CPU: {model}, {environment['cpu_count']} logical cores",
        f"CPU capability: {environment['cpu_capability']}",
        f"Threads of the call: {first.trial.modes.threads}",
        f"Modes of the call: {_modes(first)}",
        *(f"Parallel: {line}" for line in _lines(environment.get("parallel"))),
        *(f"{name}={value}" for name, value in sorted(_items(environment.get("variables")))
          if value)]
    return "```\n" + "\n".join(lines) + "\n```"


def _modes(first: FoundDivergence) -> str:
    modes = first.trial.modes
    on = [f"autocast {modes.autocast}" if modes.autocast else "",
          "inference mode" if modes.inference else "",
          "deterministic algorithms" if modes.deterministic else "",
          "" if modes.mkldnn else "without mkldnn", "backward" if first.trial.backward else ""]
    return ", ".join(m for m in on if m) or "defaults"


def _lines(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []
