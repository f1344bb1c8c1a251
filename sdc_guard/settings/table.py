"""The one table of settings: option, environment variable, key in a file and default of each.

``--budget`` on the command line, ``SDC_GUARD_BUDGET`` in the environment and ``budget`` under
``[tool.sdc_guard]`` are the same setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sdc_guard.document.exits import FINDING
from sdc_guard.document.verdicts import ACTIONS, DEFAULT_POLICY, parse_policy
from sdc_guard.records import Verdict
from sdc_guard.settings import values

PREFIX = "SDC_GUARD_"
SWITCH = "SDC_GUARD"
"""``SDC_GUARD=off`` switches everything off."""

NO_SETTINGS = frozenset({PREFIX + "HOST"})
"""Read by ``sdc-guard sweep``: what this host is called.  No setting, and no mistake."""

POLICIES = ("record", "warn", "raise", "skip")
EVIDENCE = ("full", "stats", "none")
KERNELS = ("auto", "always", "never")
WITNESSES = ("replay", "reference", "checksum", "residual", "invariant", "kernel")
VERDICTS = tuple(v.value for v in Verdict)
FAIL_ON = ("new", "any", "regression")
_COVERAGE = re.compile(r"coverage<\s*(\d+(\.\d+)?)%?")


@dataclass(frozen=True)
class Setting:
    """``allowed`` says in words what ``parse`` takes; ``is_path`` tells that a relative value in a
    file starts at that file's folder; ``is_guards`` that it is an argument of a guard."""

    name: str
    default: object
    parse: values.Parse
    allowed: str
    help: str
    is_path: bool = False
    is_guards: bool = False

    @property
    def variable(self) -> str:
        return SWITCH if self.name == "enabled" else PREFIX + self.name.upper()

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


def is_fail_on(word: str) -> bool:
    """True for ``new``, ``any``, ``regression`` and ``coverage<N`` (per cent)."""
    return word in FAIL_ON or _COVERAGE.fullmatch(word) is not None


def _words(words: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda word: word in words


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(words)


SETTINGS: tuple[Setting, ...] = (
    Setting("enabled", True, values.parse_switch, "on or off",
            "off: nothing is guarded, and the script runs as it is"),
    Setting("budget", 0.02, values.parse_budget, 'a share from 0 to below 1, or "all"',
            "share of the run time that checking may cost; all: every call is checked",
            is_guards=True),
    Setting("on_finding", "record", values.one_of(*POLICIES), f"one of {_listed(POLICIES)}",
            "what a finding does to the run; skip leaves out the corrupt optimizer step",
            is_guards=True),
    Setting("act_on", ("corruption",), values.several(_words(VERDICTS)),
            f"a list of {_listed(VERDICTS)}", "verdicts that raise and skip act on",
            is_guards=True),
    Setting("evidence", "full", values.one_of(*EVIDENCE), f"one of {_listed(EVIDENCE)}",
            "what bundles hold; stats: no number of the user's", is_guards=True),
    Setting("kernels", "auto", values.one_of(*KERNELS), f"one of {_listed(KERNELS)}",
            "when Triton kernels check", is_guards=True),
    Setting("witnesses", None, values.or_none(values.several(_words(WITNESSES))),
            f"a list of {_listed(WITNESSES)}, or none for all",
            "the witnesses that are used", is_guards=True),
    Setting("memory_budget", None, values.or_none(values.parse_bytes),
            "a number of bytes, a text such as 256MB, or none for the default",
            "memory for copies and for inputs that are kept", is_guards=True),
    Setting("seed", 0, values.parse_whole, "an integer, 0 or more",
            "of the guard's own random generator", is_guards=True),
    Setting("out", None, values.or_none(values.parse_path), "the path of a folder",
            "where event logs, bundles and reports go; none: a new folder of the command's own",
            is_path=True),
    Setting("report", ("json", "html"), values.several(bool), "a list of report formats",
            "formats that are written at the end"),
    Setting("finding_exit", FINDING, values.parse_exit_code,
            "an exit code from 0 to 255; 0 or none leaves the script's own",
            "exit code where a finding fails by policy"),
    Setting("fail_on", (), values.some(is_fail_on),
            f"a list of {_listed(FAIL_ON)}, coverage<N (per cent), or none",
            "what fails beside what the policy says: any divergence that no baseline knows, any at "
            "all, one that got worse"),
    Setting("policy", {}, values.pairs(parse_policy),
            f"a table of verdict ({_listed(tuple(DEFAULT_POLICY))}) to action "
            f"({_listed(ACTIONS)}); corruption always fails",
            "what each verdict does to the exit code"),
    Setting("coverage_floor", None, values.or_none(values.parse_percentage),
            "a percentage, 0 to 100, or none",
            "percentage of the calls that must have been checked, else exit code 3"),
    Setting("baseline", None, values.or_none(values.parse_path),
            "the path of a file, or none",
            "file of the findings that are known; without it sdc-guard-baseline.txt in the current "
            "folder, if there is one", is_path=True),
    Setting("expiry", None, values.or_none(values.parse_whole), "a number of days, or none",
            "after how many days a new line of a baseline expires"),
)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
BY_VARIABLE: dict[str, Setting] = {setting.variable: setting for setting in SETTINGS}
