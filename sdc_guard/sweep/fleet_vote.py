"""Hosts vote on what has no exact answer: digests with equal keys must be equal.

Each host has one vote for a case, that of most of its units, so that a large host does not outvote
small ones.  A unit that its own host has already found to be wrong in a test has none in that test.
A strict majority of at least two hosts outvotes one whose bits nobody shares.  Several hosts that
share other bits are not faulty by chance alike: that is a difference of software or of
configuration, and AMBIGUOUS; so is what two hosts dispute.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sdc_guard.document.codes import code_of
from sdc_guard.document.fingerprint import fingerprint
from sdc_guard.document.schema import Entry, SweptDigest, SweptUnit
from sdc_guard.document.text import counted
from sdc_guard.document.verdicts import verdict_of
from sdc_guard.records import Attribution, Cause, Evidence, Finding, OpCall, Verdict, Vote
from sdc_guard.sweep.declared import CORE, GPU
from sdc_guard.sweep.words import AMBIGUOUS, FAIL

TOOL = "sweep"
BY_FLEET = "the fleet"
MAX_SHOWN = 16
MAX_ENTRIES = 500
TWICE = ("two documents give other bits for one case: this unit does not repeat itself, or two "
         "hosts have one name; see SDC_GUARD_HOST")
Digests = dict[str, dict[str, str]]
"""By host, by unit."""


@dataclass
class Ballot:
    """``num_cases`` that at least two hosts computed; ``words`` are (unit, test, word, reason);
    ``outvoted`` counts, by unit, the cases in which it was."""

    num_cases: int = 0
    words: list[tuple[str, str, str, str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    outvoted: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def ballot_of(
    digests: Iterable[SweptDigest], units: Mapping[str, SweptUnit], known: Sequence[Entry]
) -> Ballot:
    """The votes on all cases; ``known`` are the findings of the hosts themselves."""
    ballot = Ballot()
    guilty = {(e.unit, e.test) for e in known if e.finding.attribution.place}
    cases: dict[tuple[str, str], Digests] = {}
    lost: list[tuple[str, str, Said]] = []
    for digest in digests:
        unit = units.get(digest.unit)
        if unit is None or not digest.digest:
            continue
        by_host = cases.setdefault((digest.test, digest.key), {})
        found = by_host.setdefault(unit.facts.get("host", ""), {})
        if found.setdefault(digest.unit, digest.digest) != digest.digest:
            lost.append((digest.test, digest.key,
                         (digest.unit, AMBIGUOUS, Cause.UNKNOWN, TWICE, ())))
    for (test, key), by_host in cases.items():
        if len(by_host) > 1:
            ballot.num_cases += 1
            lost += [(test, key, said) for said in _case(test, by_host, guilty)]
    told: set[tuple[str, str]] = set()
    for test, key, said in sorted(lost, key=lambda item: item[2][1] != FAIL):
        unit_id, word, cause, reason, votes = said
        ballot.outvoted[unit_id] += word == FAIL
        if (unit_id, test) in told:
            continue  # one finding for each unit and test; the count is in the ranking
        told.add((unit_id, test))
        ballot.words.append((unit_id, test, word, reason))
        if len(ballot.entries) < MAX_ENTRIES:
            ballot.entries.append(_entry(units[unit_id], test, key, word, cause, reason, votes))
    if len(told) > MAX_ENTRIES:
        ballot.notes.append(f"{len(told) - MAX_ENTRIES} more units and tests that hosts dispute "
                            "stand in the table alone")
    return ballot


Said = tuple[str, str, Cause, str, tuple[Vote, ...]]


def _case(test: str, by_host: Digests, guilty: set[tuple[str, str]]) -> list[Said]:
    """Unit, word, cause, reason and votes for every unit that has lost, or disputes, one case."""
    sound = {host: {u: d for u, d in found.items() if (u, test) not in guilty}
             for host, found in by_host.items()}
    voices = {host: voice for host, found in sound.items() if (voice := _voice(found))}
    if len(set(voices.values())) < 2 and not _dissenters(sound, set(voices.values())):
        return []
    votes = tuple(Vote(place=host, method="the same case", identical=True, result="expected")
                  for host in sorted(voices))[:MAX_SHOWN]
    counts = Counter(voices.values())
    (winner, most), *_ = counts.most_common() or [("", 0)]
    if len(counts) < 2 and most < 2:
        return []  # one host alone: what others dispute within themselves, they have told
    said: list[Said] = []
    if most < 2 or 2 * most <= len(voices):
        for host in voices:
            said += [(u, AMBIGUOUS, Cause.UNKNOWN,
                      f"{counted(len(voices), 'host')} give {counted(len(counts), 'result')}, and "
                      "no majority says which is right", ()) for u in sound[host]]
        return said
    votes = tuple(_counted_for(vote, voices[vote.place] == winner) for vote in votes)
    tally = f"outvoted: {most} of {counted(len(voices), 'host')} agree on other bits"
    for found in sound.values():
        for unit_id, digest in found.items():
            if digest == winner:
                continue
            sharing = sum(digest in set(f.values()) for f in sound.values())
            if sharing > 1:
                said.append((unit_id, AMBIGUOUS, Cause.SOFTWARE,
                             f"{tally}, but {sharing} hosts have these: a difference of software "
                             "or configuration is likely", votes))
            elif len(found) > 1 and set(found.values()) == {digest}:
                said.append((unit_id, FAIL, Cause.UNKNOWN,
                             f"{tally}; all {len(found)} units of this host give these: its "
                             "software or configuration is as likely as its hardware", votes))
            else:
                said.append((unit_id, FAIL, Cause.PERSISTENT_HARDWARE, tally, votes))
    return said


def _voice(found: Mapping[str, str]) -> str:
    """What more than half of a host's units say; nothing for a tie."""
    if not found:
        return ""
    (digest, most), *_ = Counter(found.values()).most_common()
    return digest if 2 * most > len(found) else ""


def _dissenters(sound: Digests, voices: set[str]) -> bool:
    """Whether any unit says something else than all hosts that have a voice."""
    return bool(voices) and any(d not in voices for f in sound.values() for d in f.values())


def _counted_for(vote: Vote, is_winner: bool) -> Vote:
    """The vote of a host that agrees with the majority, or does not."""
    return vote if is_winner else Vote(place=vote.place, method=vote.method,
                                       identical=vote.identical, result="held")


def _entry(
    unit: SweptUnit, test: str, key: str, word: str, cause: Cause, reason: str,
    votes: tuple[Vote, ...],
) -> Entry:
    verdict = Verdict(verdict_of(TOOL, word))
    host = unit.facts.get("host", "")
    finding = Finding(
        verdict=verdict, witness="peer", relation=f"{test}: {key}", worst=None, pattern=None,
        call=OpCall(op=test, call_index=0, step=0, phase="", module="", source="", operands=(),
                    outputs=(), arguments=key, flops=0, num_threads=1),
        attribution=Attribution(cause=cause, place=unit.id if word == FAIL else "", votes=votes,
                                reason=reason),
        evidence=Evidence(bundle="", replay_command=_replay(unit, test, key),
                          note=f"to be run on {host}"),
        held_is_wrong=verdict is Verdict.CORRUPTION, message="")
    return Entry(
        id=fingerprint(finding, tool=TOOL, file=unit.id, test=test),
        code=code_of(verdict.value, "peer"), tool=TOOL, word=word, verdict=verdict, run="",
        finding=finding, test=test, unit=unit.id,
        facts={"voted by": BY_FLEET, **unit.facts})


def _replay(unit: SweptUnit, test: str, key: str) -> str:
    """The same case on that unit, to be run on its host."""
    number = unit.name.rpartition(" ")[2]
    where = (["--devices", unit.name] if unit.kind == GPU
             else ["--devices", "cpu", "--cores", number] if unit.kind == CORE
             else ["--devices", "cpu"])
    parts = key.split(" | ")
    seed = next((p.removeprefix("seed ") for p in parts if p.startswith("seed ")), "")
    case = ["--case", parts[1]] if len(parts) > 2 else []
    return shlex.join(["sdc-guard", "sweep", *where, "--tests", test, *case,
                       *(["--seed", seed] if seed.isdecimal() else []), "--seconds", "10",
                       "--fresh"])
