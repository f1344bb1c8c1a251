"""What every word in a report means, what it proves, what to do, and an example.

Verdicts, causes, witnesses, rule codes, the tools' own words, a baseline's states, exit codes.
The tables of ``codes``, ``verdicts`` and ``exits`` are the source; each of their entries is
explained.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdc_guard.document import exits
from sdc_guard.document.codes import RULES, WITNESSES
from sdc_guard.document.verdicts import DEFAULT_POLICY, MEANINGS, WORDS
from sdc_guard.records import Cause, Verdict


@dataclass(frozen=True)
class Explanation:
    """``name`` is what one asks for; ``kind`` is verdict, cause, witness, rule, word, state or exit
    code."""

    name: str
    kind: str
    meaning: str
    proves: str
    do: str
    example: str


_BY_POLICY = {
    "fail": "It fails: exit code 1.",
    "inconclusive": "It gives exit code 3 unless a policy says otherwise.",
    "report": "It is shown and does not fail unless a policy or --fail-on says so.",
}

_VERDICTS: dict[str, tuple[str, str, str]] = {
    "corruption": (
        "The number in use (or, where the finding says so, a recomputation) is not what the "
        "operator's definition allows on these operands. Nothing about why: that is the cause.",
        "Replay the bundle here and on another machine. Wrong in both places: report the bug with "
        "the bundle. Wrong here alone: take this device out of service and run `sdc-guard doctor`.",
        "sum of 128 floats is 25.0, the exact sum is 17.0, and no order of additions errs by more "
        "than 1.2e-4"),
    "precision": (
        "The result is inside the error that any order of evaluation may make, and outside what "
        "this backend's algorithm is known to keep. It may be a term that was lost.",
        "See whether a reduced-precision mode is on (TF32, bf16 reductions). If it is known and "
        "accepted, put it into a baseline; if not, treat it as corruption.",
        "a sum of 20 million floats that lost one term of average size"),
    "nondeterminism": (
        "The bits depend on something other than the operands: order of threads, of atomics, a "
        "library's choice of kernel. No value is known to be wrong.",
        "torch.use_deterministic_algorithms(True), or a baseline line with the reason.",
        "index_add on a GPU, whose atomics add in another order each time"),
    "inconclusive": (
        "That two computations disagree; not which of them is wrong.",
        "Read the votes in the finding, run again with budget \"all\", replay the bundle on "
        "another machine.",
        "a kernel doubts a sum, and the operands were freed before the host could look"),
    "not tested": (
        "Nothing: not checked is never clean.",
        "Read the reason in coverage; `sdc-guard ops --missing MODULE:FUNCTION` lists the calls of "
        "a training step that are not checked.",
        "a random draw, of which only range and mean can be judged"),
}

_CAUSES: dict[str, tuple[str, str, str, str]] = {
    "software": (
        "The identical call is wrong on another core, or in another process, too.",
        "A bug in a library, a kernel or its compiler; this piece of hardware is not to blame.",
        "Report it with the bundle; until it is fixed use another algorithm or version.",
        "wrong on core 0, core 1 and in a fresh process"),
    "persistent hardware": (
        "The identical call is wrong here every time and right elsewhere.",
        "The named place computes wrong values for these operands.",
        "Take that core or device out of service; hand the bundle to its vendor.",
        "wrong 6 of 6 times on core 3, right 6 of 6 times on core 1"),
    "transient": (
        "Wrong once, right when the identical call is repeated in the same place.",
        "That something passing changed the bits: a particle, a marginal circuit, a data race.",
        "One may be chance. Watch whether the same place appears again: `sdc-guard diff` compares "
        "runs.",
        "one flipped bit in 64 elements; 4 repeats give the right bits"),
    "unknown": (
        "There was no second place to ask, or the votes disagree.",
        "Nothing about who made the wrong number; the verdict stands.",
        "Allow two or more cores (taskset, cgroup), or replay the bundle on another machine.",
        "a container with one core"),
}

_WITNESSES: dict[str, tuple[str, str]] = {
    "replay": ("Equal bits were due, so one of the two results is wrong; arbitration says which.",
               "a product whose rows are rolled, computed, and rolled back"),
    "reference": ("A broken proof bound proves the result wrong; a broken contract alone does not.",
                  "a float64 sum in NumPy, on copies of the operands"),
    "residual": ("No right answer misses its equation by more than the bound.",
                 "A X = B after a solver"),
    "checksum": ("Some element of a row is off by more than rounding; it does not say which.",
                 "C w against A (B w) after a product"),
    "sample": ("The named elements are wrong; nothing about those that were not drawn.",
               "64 elements of a convolution recomputed"),
    "invariant": ("An exact fact is broken, so the result is wrong.",
                  "rows of an embedding that are no rows of its table"),
    "kernel": ("A doubt, which the host's reference then confirms or withdraws.",
               "row sums of a softmax, taken on the device"),
    "repeat": ("The operator does not repeat itself here; not which result is right.",
               "the same call three times, two different answers"),
    "exact": ("The answer is known beforehand, so the result is wrong.",
              "a product of small integers"),
    "golden": ("These bits differ from those of sound hardware with the same software.",
               "the digest of a fixed workload"),
    "peer": ("This device is outvoted by others that made the same call.",
             "seven ranks agree, the eighth does not"),
    "semantics": ("The result is not of the documented kind; its numbers were not judged.",
                  "an integer sum that comes out in float32"),
    "process": ("The operator failed loudly; there is no number to judge.",
                "a segmentation fault in a solver"),
}

_STATES: dict[str, tuple[str, str, str]] = {
    "new": ("No line of the baseline is about this divergence.",
            "Open the finding; `sdc-guard baseline write` accepts it, with a reason.",
            "the first report in which a fingerprint stands"),
    "known": ("The baseline has its fingerprint, for this torch and kind of device, with no milder "
              "verdict: it does not fail.",
              "Nothing; the line's reason says why it is accepted.",
              "a gradient that torch adds in bfloat16 itself"),
    "expired": ("The baseline's line is past its date, and excuses nothing any more.",
                "Fix it, or write the baseline again with a later --expires.",
                "a line that expires 2026-11-01, read on 2026-11-23"),
    "fixed": ("The baseline knows it, its operator was checked here, and it was not found.",
              "`sdc-guard baseline prune` takes the line out.",
              "a bug that a newer torch no longer has"),
    "stale": ("A line that can match nothing any more: past its date, or for an older torch.",
              "`sdc-guard baseline prune` takes it out.",
              "a line for torch 2.12 where 2.13 is in use"),
    "carried": ("A line about a device or an operator that this report does not cover; it is kept.",
                "Nothing.", "a line for cuda, in a report of a CPU"),
}
"""What a baseline makes of a divergence, and a report of a baseline's line."""

_EXITS: dict[int, tuple[str, str]] = {
    exits.CLEAN: ("Nothing to do; coverage says how much was looked at.",
                  "a guarded run without a finding"),
    exits.DIVERGENCE: ("Open the report; `sdc-guard baseline write` accepts what is known.",
                       "one new corruption"),
    exits.USAGE: ("Read the message: it shows the value, its limit and what to do.",
                  "a budget of 2 instead of 0.02"),
    exits.INCONCLUSIVE: ("Check more (budget \"all\"), or read the votes of what stayed open.",
                         "coverage of 60 % under --fail-on 'coverage<90'"),
    exits.INTERNAL_ERROR: ("Report the traceback on stderr.", "a bug in sdc-guard"),
    exits.NOTHING_TESTED: ("See whether the right code was guarded, and its coverage.",
                           "a script that never calls torch"),
    exits.FINDING: ("Open the report that the run has written; --finding-exit sets another code.",
                    "`sdc-guard run -- python train.py` met a corruption"),
}


def all_explanations() -> dict[str, Explanation]:
    """By name: verdicts, causes, witnesses, rules, words such as ``sweep:FAIL``, exit codes."""
    found = [*map(_verdict, Verdict), *map(_cause, Cause), *map(_witness, WITNESSES),
             *map(_rule, RULES),
             *(_word(tool, word) for tool, words in WORDS.items() for word in words),
             *map(_state, _STATES), *map(_exit, exits.MEANINGS)]
    return {item.name: item for item in found}


def look_up(asked: str) -> tuple[Explanation, ...]:
    """What a person may have meant: a name in any case, with spaces, dashes or underscores, a
    rule's long name, or a tool's word without its tool."""
    key = _plain(asked)
    items = all_explanations().values()
    exact = tuple(e for e in items if _plain(e.name) == key)
    if exact:
        return exact
    rules = tuple(_rule(code) for code, rule in RULES.items() if _plain(rule.name) == key)
    return rules or tuple(e for e in items if e.kind == "word" and _plain(
        e.name.partition(":")[2]) == key)


def names() -> tuple[str, ...]:
    """Everything that :func:`look_up` finds."""
    items = all_explanations().values()
    return tuple(dict.fromkeys((
        *(e.name for e in items), *(rule.name for rule in RULES.values()),
        *(e.name.partition(":")[2] for e in items if e.kind == "word"))))


def _plain(text: str) -> str:
    return text.strip().casefold().replace("-", " ").replace("_", " ")


def _verdict(verdict: Verdict) -> Explanation:
    proves, do, example = _VERDICTS[verdict.value]
    action = _BY_POLICY[DEFAULT_POLICY[verdict.value]]
    return Explanation(verdict.value, "verdict", f"{MEANINGS[verdict.value]} {action}", proves, do,
                       example)


def _cause(cause: Cause) -> Explanation:
    return Explanation(cause.value, "cause", *_CAUSES[cause.value])


def _witness(name: str) -> Explanation:
    proves, example = _WITNESSES[name]
    meaning = WITNESSES[name][1]
    return Explanation(
        name, "witness", f"{meaning[0].upper()}{meaning[1:]}.", proves,
        "Read the verdict beside it: the same witness can lead to several.", example)


def _rule(code: str) -> Explanation:
    rule = RULES[code]
    proves, do, _ = _VERDICTS[rule.verdict]
    _, example = _WITNESSES.get(rule.witness, ("", "a document written by a later version"))
    return Explanation(code, "rule", f"{rule.name}. {rule.summary}. {MEANINGS[rule.verdict]}",
                       proves, do, example)


def _word(tool: str, word: str) -> Explanation:
    verdict = WORDS[tool][word]
    name = f"{tool}:{word}"
    if verdict == "clean":
        return Explanation(
            name, "word", f"{word!r} of {tool} is no finding.",
            "That what was tested kept its bounds; coverage says what was tested.",
            "Nothing.", f"a test of {tool} that passes")
    proves, do, example = _VERDICTS[verdict]
    return Explanation(name, "word", f"{word!r} of {tool} is the verdict {verdict!r}. "
                       f"{MEANINGS[verdict]}", proves, do, example)


def _state(name: str) -> Explanation:
    meaning, do, example = _STATES[name]
    return Explanation(name, "state", meaning, "Nothing about the numbers: it says what is "
                       "accepted.", do, example)


def _exit(code: int) -> Explanation:
    do, example = _EXITS[code]
    meaning = exits.MEANINGS[code]
    proves = {
        exits.CLEAN: "That what was checked kept its bounds; nothing about the rest.",
        exits.DIVERGENCE: "What the findings prove.",
        exits.FINDING: "What the findings prove.",
    }.get(code, "Nothing about the numbers.")
    return Explanation(str(code), "exit code", f"{meaning[0].upper()}{meaning[1:]}.", proves, do,
                       example)
