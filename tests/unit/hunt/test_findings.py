"""What becomes of a divergence: made again, reduced, named, and written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.evidence.reading import read_bundle
from sdc_guard.evidence.replaying import replay
from sdc_guard.hunt.divergence import OUTSIDE, Divergence
from sdc_guard.hunt.findings import Finder, write_findings, write_tests
from sdc_guard.hunt.found import decode_found, distinct, encode_found, grouped
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.repetition import Repeats, divergences, word_of
from sdc_guard.hunt.trial import Items, Modes, Trial, scalar
from sdc_guard.records import Cause, Verdict
from tests.unit.hunt.made_findings import (
    BOUND,
    EXP,
    GELU_OUT,
    NANMEDIAN,
    broken_exp,
    first_divergence,
    operand,
    take,
)


def test_a_bug_of_torch_is_reduced_confirmed_and_called_software() -> None:
    found = take(NANMEDIAN)
    assert (found.word, found.wrong, found.tried) == ("corruption", 10, 10)
    assert found.exact == "confirmed"
    assert found.trial.num_elements <= 4
    assert found.trial.modes == Modes()
    assert found.finding.verdict is Verdict.CORRUPTION
    assert found.finding.cause in (Cause.SOFTWARE, Cause.UNKNOWN)  # one core: no second place
    assert found.finding.witness == "bound"


def test_an_out_with_gaps_keeps_its_gaps_because_the_bug_needs_them() -> None:
    found = take(GELU_OUT)
    assert found.exact == "confirmed"
    assert found.trial.kwargs["out"].layout.kind == "gapped"  # type: ignore[union-attr]
    assert next(found.trial.operands()).layout.kind == "contiguous"
    assert found.trial.num_elements <= 8


def test_a_fault_of_every_third_call_is_told_as_k_of_n_and_no_cause_is_named() -> None:
    with broken_exp(lambda n: n % 3 == 0):
        found = take(EXP, num_repeats=12)
    assert found.word == "corruption"
    assert 0 < found.wrong < found.tried
    assert f"{found.wrong} of {found.tried}" in found.message
    assert "comes and goes" in found.message
    assert found.finding.cause is Cause.UNKNOWN
    assert "Is this machine sound?" in found.issue
    assert "for _ in range(" in found.script


def test_a_fault_that_never_comes_again_is_told_as_0_of_n_and_transient() -> None:
    with broken_exp(lambda n: n == 0):
        found = take(EXP)
    assert (found.word, found.wrong, found.tried) == ("corruption", 0, 10)
    assert found.trial == found.drawn == EXP
    assert found.finding.cause is Cause.TRANSIENT
    assert "is the hardware sound?" in found.message


def test_a_check_that_condemns_sound_numbers_once_decides_nothing() -> None:
    divergence = first_divergence(NANMEDIAN)
    seen = divergence.observation
    assert seen is not None
    right = seen.held[0].clone()
    right.copy_(seen.call["self"][0].reshape(right.shape))
    sound = dataclasses.replace(
        divergence, observation=dataclasses.replace(seen, held=(right, seen.held[1])))
    word, why = word_of(sound, Repeats(0, 5, None))
    assert word == "inconclusive"
    assert "pass when judged again" in why


def test_what_stays_inside_the_proof_and_comes_and_goes_is_nondeterminism() -> None:
    precise = dataclasses.replace(first_divergence(NANMEDIAN), word="precision")
    assert word_of(precise, Repeats(2, 5, None))[0] == "nondeterminism"
    assert word_of(precise, Repeats(5, 5, None))[0] == "precision"


def test_exact_arithmetic_takes_a_corruption_back() -> None:
    divergence = first_divergence(NANMEDIAN)
    with broken_exp(lambda n: True):
        broken = first_divergence(EXP)
    assert divergence.worst is not None
    assert broken.worst is not None
    seen = broken.observation
    assert seen is not None
    sound = torch.ops.aten.exp.default(seen.call["self"])
    seen.held = (sound,)

    def insists(session: object, trial: object, base: object) -> object:
        yield broken

    oracle = dataclasses.replace(BOUND[0], check=insists)  # type: ignore[arg-type]
    found = Finder((oracle,), runs_scripts=False, max_tries=0).take(EXP, broken)
    assert (found.word, found.exact) == ("inconclusive", "contradicted")
    assert "exact arithmetic says that the number is right" in found.message


def test_a_kind_is_written_up_once_and_counted() -> None:
    finder = Finder(BOUND, runs_scripts=False)
    divergence = first_divergence(NANMEDIAN)
    first, second = finder.take(NANMEDIAN, divergence), finder.take(NANMEDIAN, divergence)
    assert (first.times, second.times) == (1, 2)
    assert first.fingerprint == second.fingerprint


def test_two_draws_of_one_bug_have_one_fingerprint_after_reduction() -> None:
    drawn = NANMEDIAN.mapped(lambda i, o: msgspec.structs.replace(o, shape=(5, 3)))
    assert take(drawn).fingerprint == take(NANMEDIAN).fingerprint


def test_a_crash_is_never_made_again_in_this_process() -> None:
    calls: list[object] = []
    crash = Divergence(oracle="process", op="aten.exp.default", word="crash", message="SIGSEGV",
                       dtype_class="float32", layout_class="contiguous", magnitude_class="SIGSEGV")
    finder = Finder(BOUND, runs_scripts=False, on_trial=calls.append)
    found = finder.take(EXP, crash)
    assert (found.word, found.tried, calls) == ("crash", 0, [])
    assert "torch.ops.aten.exp.default(x0)" in found.script


def test_a_finding_survives_json_and_a_damaged_one_is_refused() -> None:
    found = take(NANMEDIAN)
    assert decode_found(encode_found(found)) == found
    with pytest.raises(UsageError, match="no finding of a hunt"):
        decode_found(encode_found(found)[:-20])


def test_findings_of_one_packet_and_dtype_are_one_group_and_the_worst_leads(tmp_path: Path) -> None:
    one, other = take(NANMEDIAN), take(GELU_OUT)
    softer = msgspec.structs.replace(one, word="precision", fingerprint="0" * 16)
    groups = grouped([softer, one, other])
    assert sorted(len(g) for g in groups) == [1, 2]
    assert all(g[0].word == "corruption" for g in groups)
    files = write_findings(tmp_path / "out", [softer, one, other])
    assert sum(f.name == "issue.md" for f in files) == 2
    assert all(f.is_file() for f in files)
    assert "0000000000000000" in (files[0].parent / "issue.md").read_text() + (
        files[-1].parent / "issue.md").read_text()
    assert len(write_tests(tmp_path / "tests", [one, other])) == 2


def _im2col(seed: int) -> Trial:
    pairs = [(1, 2), (1, 1), (1, 0), (1, 2)]
    sizes = [Items(items=tuple(scalar(n) for n in pair), is_tuple=False) for pair in pairs]
    return Trial(target="aten.im2col.default", args=(operand(1, 2, 3, 4, seed=seed), *sizes))


def test_lost_results_and_writes_beside_out_are_one_finding_with_a_script_that_shows_it() -> None:
    (forms,) = chosen(("forms",))
    seen = [(trial, d) for trial in map(_im2col, range(12))
            for d in divergences(forms, trial, Session())]
    beside = [(trial, d) for trial, d in seen if OUTSIDE in d.message]
    assert 0 < len(beside) < len(seen), "both kinds of error come"
    assert len({d.fingerprint for _, d in seen}) == 1
    finder = Finder((forms,), runs_scripts=True, max_tries=20)
    found = finder.take(*beside[0])
    assert found.script_shows == "wrong"
    assert "elements beside out= were overwritten" in found.script
    assert len(found.script.splitlines()) <= 30
    assert len(grouped([found, msgspec.structs.replace(
        found, fingerprint="1" * 16, oracle="bound", dtype_class="half")])) == 1


def test_divergences_that_reduce_to_the_same_are_one() -> None:
    one = take(NANMEDIAN)
    (both,) = distinct([msgspec.structs.replace(one, word="precision", times=3), one])
    assert (both.word, both.times) == ("corruption", 4)
    assert distinct([one, take(GELU_OUT)])[1].op == "aten.gelu.out"


def test_the_bundle_of_a_finding_replays_it(tmp_path: Path) -> None:
    found = take(GELU_OUT, bundles=tmp_path)
    (bundle,) = tmp_path.glob("*.sdcz")
    assert found.finding.evidence.bundle == str(bundle)
    assert replay(read_bundle(bundle)).reproduces == "held"
