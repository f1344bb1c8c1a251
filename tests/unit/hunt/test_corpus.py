from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.hunt.corpus import Corpus, Key, continued, of_hunt
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.messages import Done, Found, packed, unpacked
from sdc_guard.hunt.slot import Slot
from tests.unit.hunt.made_hunt import SUM, made_found, made_ledger

KEY = Key(seed=1, torch="2.13.0", oracles=("bound",), max_bytes=1 << 20)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = made_ledger(made_found())
    ledger.gone["c" * 16] = made_found("precision", seen_as="c" * 16)
    corpus = Corpus(tmp_path)
    corpus.save_state(KEY, ledger, is_finished=False)
    assert corpus.load_state(KEY) == (ledger, False)
    assert corpus.load_state(msgspec.structs.replace(KEY, seed=2)) is None
    assert not corpus.notes


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"version": 99}', '{"version": 1}', '{"version": 1, "key": 3, "ledger": {}}',
    "[" * 100_000, '{"version": 1, "ledger": {"found": [1]}, "key": null}', "\x00\x01",
])
@pytest.mark.parametrize("name", ["state.json", "found.json"])
def test_a_damaged_file_is_set_aside_and_said(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text)
    corpus = Corpus(tmp_path)
    assert corpus.load_state(KEY) is None
    assert corpus.load_found() == {}
    (note,) = corpus.notes
    assert f"{name}.damaged-0" in note
    assert (tmp_path / f"{name}.damaged-0").read_text() == text, "nothing is lost"


def test_what_is_found_accumulates_and_what_is_gone_leaves(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    first, second = made_found(), made_found("precision", target="aten.mm.default")
    corpus.save_found(made_ledger(first))
    corpus.save_found(made_ledger(second))
    assert set(corpus.load_found()) == {first.seen_as, second.seen_as}
    ledger = made_ledger()
    ledger.gone[first.seen_as] = first
    corpus.save_found(ledger)
    assert set(corpus.load_found()) == {second.seen_as}


def test_what_a_killed_hunt_has_found_is_there_for_the_next(tmp_path: Path) -> None:
    """The next one goes on behind the rounds that gave it."""
    corpus, found = Corpus(tmp_path), made_found()
    corpus.save(KEY, made_ledger(found), is_finished=False)
    assert set(corpus.load_found()) == {found.seen_as}
    assert corpus.load_state(KEY) is not None


def test_only_what_is_hunted_is_made_again() -> None:
    """A file from elsewhere may name any function as the target of a trial; and what another oracle
    found would seem to be gone."""
    found = {"a": made_found(), "b": made_found(target="os.system"),
             "c": made_found(oracle="forms")}
    assert set(of_hunt(found, [SUM], ["bound", "process"])) == {"a"}


def test_two_hunts_cannot_hold_one_folder(tmp_path: Path) -> None:
    with (Corpus(tmp_path).held(), pytest.raises(UsageError, match="another hunt is at work"),
          Corpus(tmp_path).held()):
        pass
    with Corpus(tmp_path).held():
        pass


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"), Corpus(tmp_path / "file" / "x").held():
        pass


def test_rounds_go_on_and_counts_begin_again() -> None:
    ledger = made_ledger()
    ledger.of(SUM).leave_out("d" * 16)
    page = continued(ledger)[SUM]
    assert (page.rounds, page.skip, page.trials) == (1, ["d" * 16], 0)


def test_rounds_that_end_out_of_order_leave_no_gap() -> None:
    page = Ledger().of(SUM)
    page.add_round(1)
    assert [page.is_done(0), page.is_done(1), page.rounds] == [False, True, 0]
    page.add_round(0)
    assert (page.rounds, page.ahead) == (2, [])


def test_a_round_that_was_cut_is_not_done() -> None:
    ledger = Ledger()
    ledger.add(SUM, 0, Done(trials=3, is_whole=False))
    assert not ledger.of(SUM).is_done(0)
    assert ledger.trials == 3


def test_a_message_comes_back_as_it_was_and_holds_no_bare_nan() -> None:
    found = made_found()
    message = Found(found=msgspec.structs.replace(
        found, finding=msgspec.structs.replace(found.finding, repeats=3)))
    assert unpacked(packed(message)) == message
    done = Done(elapsed_s=float("inf"), met={"a": 1})
    json.loads(packed(done).partition(b"\n")[2], parse_constant=pytest.fail)
    assert unpacked(packed(done)) == done


@pytest.mark.parametrize(("data", "why"), [
    (b"", "unknown kind"), (b"Nothing\n{}", "unknown kind"), (b"Done\n[]", "object"),
    (b"Done\n{", "Expecting"), (b"Found\n{}", "missing required field")])
def test_bytes_that_are_no_message_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpacked(data)


def test_a_slot_tells_the_trial_and_that_it_moves(tmp_path: Path) -> None:
    ours, theirs = Slot(tmp_path / "slot"), Slot(tmp_path / "slot")
    assert (theirs.count(), theirs.trial()) == (0, "")
    ours.put(b"a long trial")
    ours.put(b"short")
    assert (theirs.count(), theirs.trial(), theirs.beats()) == (2, "short", 2)
    ours.beat()
    assert (theirs.count(), theirs.trial(), theirs.beats()) == (2, "short", 3)
    ours.close()
    theirs.close()
