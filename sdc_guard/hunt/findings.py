"""From a divergence to a finding worth sending: made again, reduced, checked by exact arithmetic,
with a script, a bundle and an issue text.

A divergence that does not come again is told as k of n: it is neither dropped nor retried until it
fits.  A ``corruption`` that exact arithmetic contradicts is none: it becomes ``inconclusive``, and
the defect is ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from sdc_guard.document.operators import packet_of
from sdc_guard.evidence.bundle import BundleWriter
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.exact import CONTRADICTED, Exact, checked, text_of
from sdc_guard.hunt.finding_record import NO_EVIDENCE, expected_results, finding_of
from sdc_guard.hunt.found import FoundDivergence, distinct, encode_found, grouped
from sdc_guard.hunt.issue_text import issue_text
from sdc_guard.hunt.oracles._registry import Oracle, Session
from sdc_guard.hunt.reduce import Reduction, reduced
from sdc_guard.hunt.regression_test import test_name, test_of
from sdc_guard.hunt.repetition import LOUD, Repeats, repeat, shows, word_of
from sdc_guard.hunt.script_choice import script_of
from sdc_guard.hunt.script_runs import run_script
from sdc_guard.hunt.trial import Trial
from sdc_guard.records import Evidence, Finding

NUM_REPEATS = 10
NUM_BACK = 4
"""Steps of a reduction that are undone, at most, until a trial diverges as often as the first."""


class Finder:
    """Writes divergences up, each kind once.

    ``oracles`` are those of the hunt.  ``bundles`` is the folder for ``.sdcz`` files, None for
    none.  A reduction makes at most ``max_tries`` trials and takes at most ``reduce_s`` seconds.
    ``on_trial`` is told each trial before it is made, because one may crash.  With ``runs_scripts``
    each script is run once in a fresh process (about 3 s).
    """

    def __init__(
        self, oracles: tuple[Oracle, ...], *, bundles: Path | None = None,
        session: Session | None = None, num_repeats: int = NUM_REPEATS, max_tries: int = 300,
        reduce_s: float = 15.0, runs_scripts: bool = True,
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self._oracles = {o.name: o for o in oracles}
        self._session = Session() if session is None else session
        self._bundles = BundleWriter(bundles, level="none" if bundles is None else "full")
        self._num_repeats, self._max_tries = num_repeats, max_tries
        self._reduce_s, self._runs_scripts = reduce_s, runs_scripts
        self._on_trial = on_trial
        self._by_seen: dict[tuple[str, str], FoundDivergence] = {}

    def take(self, trial: Trial, divergence: Divergence) -> FoundDivergence:
        """The finding of a divergence that ``trial`` gave.

        Divergences of a kind and word that was taken before are counted (``times``), and what was
        found for the first of them is returned.  ``crash`` and ``hang`` are made again in fresh
        processes only.
        """
        key = divergence.fingerprint, divergence.word
        known = self._by_seen.get(key)
        if known is not None:
            found = msgspec.structs.replace(known, times=known.times + 1)
        elif divergence.word in LOUD:
            found = self._loud(trial, divergence)
        else:
            found = self._quiet(trial, divergence)
        self._by_seen[key] = found
        return found

    def _quiet(self, trial: Trial, divergence: Divergence) -> FoundDivergence:
        drawn, oracle = trial, self._oracles[divergence.oracle]
        seen_as = divergence.fingerprint
        repeats = first = self._repeat(oracle, trial, divergence)
        steps = self._reduced(oracle, trial, divergence, first).steps if first.wrong else ()
        for smaller, its in steps[:-NUM_BACK - 1:-1]:
            again = self._repeat(oracle, smaller, its)
            if again.wrong and (again.always or not first.always):
                trial, divergence, repeats = smaller, again.last or its, again
                break
        word, why = word_of(divergence, repeats)
        told, exact = checked(divergence)
        if told == CONTRADICTED and word == "corruption":
            word, why = "inconclusive", f"{why}; exact arithmetic says that the number is right"
        finding = finding_of(trial, divergence, word, repeats, why)
        evidence = self._bundle(divergence, finding)
        found = self._found(drawn, trial, divergence, seen_as, word, repeats,
                            msgspec.structs.replace(finding, evidence=evidence))
        found = msgspec.structs.replace(
            found, exact=told, exact_value=text_of(divergence, told, exact))
        return written_up(found, divergence, exact, runs_script=self._runs_scripts)

    def _loud(self, trial: Trial, divergence: Divergence) -> FoundDivergence:
        repeats = Repeats(0, 0, None)
        finding = finding_of(trial, divergence, divergence.word, repeats, divergence.message)
        found = self._found(trial, trial, divergence, divergence.fingerprint, divergence.word,
                            repeats, finding)
        return written_up(found, divergence, None, runs_script=self._runs_scripts)

    def _repeat(self, oracle: Oracle, trial: Trial, divergence: Divergence) -> Repeats:
        return repeat(oracle, trial, divergence, self._session, times=self._num_repeats,
                      limit_s=self._reduce_s, on_trial=self._on_trial)

    def _reduced(
        self, oracle: Oracle, trial: Trial, divergence: Divergence, first: Repeats
    ) -> Reduction:
        def once(candidate: Trial) -> Divergence | None:
            self._on_trial(candidate)
            return shows(oracle, candidate, divergence, self._session)

        return reduced(trial, once, attempts=first.attempts,
                       max_tries=self._max_tries, limit_s=self._reduce_s)

    def _bundle(self, divergence: Divergence, finding: Finding) -> Evidence:
        seen = divergence.observation
        if seen is None or self._bundles.directory is None:
            return NO_EVIDENCE
        return self._bundles.write(seen.call, seen.held, expected_results(divergence), finding,
                                   site=divergence.fingerprint)

    def _found(
        self, drawn: Trial, trial: Trial, divergence: Divergence, seen_as: str, word: str,
        repeats: Repeats, finding: Finding,
    ) -> FoundDivergence:
        return FoundDivergence(
            fingerprint=divergence.fingerprint, seen_as=seen_as, word=word,
            oracle=divergence.oracle, op=divergence.op, target=trial.target,
            dtype_class=divergence.dtype_class, layout_class=divergence.layout_class,
            magnitude_class=divergence.magnitude_class, message=finding.message, finding=finding,
            trial=trial, drawn=drawn, wrong=repeats.wrong, tried=repeats.tried,
            link=divergence.link)


def written_up(
    found: FoundDivergence, divergence: Divergence, exact: Exact | None, *, runs_script: bool
) -> FoundDivergence:
    """With its script, tried once in a fresh process, its test and its issue text."""
    script = script_of(found, divergence, exact)
    shows_it = run_script(script) if script and runs_script else "not run"
    found = msgspec.structs.replace(found, script=script, script_shows=shows_it)
    return msgspec.structs.replace(
        found, regression_test=test_of(found), issue=issue_text((found,)))


def write_findings(out: Path, found: list[FoundDivergence]) -> tuple[Path, ...]:
    """Write what can be sent: a folder per root cause, the most severe first, with its issue text,
    the scripts and the findings as JSON; returns the files.

    Raises:
        OSError: if the folder cannot be written.
    """
    written: list[Path] = []

    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        written.append(path)

    for number, group in enumerate(grouped(found), start=1):
        folder = out / f"{number:02d}-{_slug(group[0])}"
        write(folder / "issue.md", issue_text(group))
        for one in group:
            if one.script:
                write(folder / f"{one.fingerprint}.py", one.script)
            write(folder / f"{one.fingerprint}.json", encode_found(one))
    return tuple(written)


def write_tests(folder: Path, found: list[FoundDivergence]) -> tuple[Path, ...]:
    """Write a regression test for each finding that has one; returns the files.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in distinct(found):
        if one.regression_test:
            path = folder / f"{test_name(one)}.py"
            path.write_text(one.regression_test, encoding="utf-8")
            written.append(path)
    return tuple(written)


def _slug(one: FoundDivergence) -> str:
    text = f"{one.word}-{packet_of(one.op)}-{one.dtype_class}"
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:80]
