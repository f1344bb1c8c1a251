"""Golden digests count for exactly their software; damaged files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import CORE, Place
from sdc_guard.sweep.families import mini_transformer_step
from sdc_guard.sweep.families.golden_digests import TESTS, cases, operand
from sdc_guard.sweep.golden import (
    SHIPPED,
    Recorded,
    golden_of,
    looked_up,
    read_golden,
    software_key,
    write_golden,
)
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor

PLACE = Place(kind=CORE, name="core 0", device="cpu")
HERE = {"torch": "2.13.0", "threads": "1", "capability": "AVX2"}
OLDER = {**HERE, "torch": "2.12.0"}


def test_a_digest_is_equal_or_differs_for_its_own_software_alone() -> None:
    records = [Recorded(HERE, {"a": "12"}), Recorded(OLDER, {"a": "34", "b": "56"})]
    assert looked_up(records, HERE, "a", "12") == "equal"
    assert looked_up(records, HERE, "a", "34") == "differs"
    assert looked_up(records, HERE, "b", "56") == (
        "no digest for torch 2.13.0; recorded for torch 2.12.0")
    assert looked_up(records, HERE, "c", "12") == "no digest is recorded for this case"
    assert looked_up([*records, Recorded(HERE, {"a": "99"})], HERE, "a", "12") == (
        "two golden files disagree about it")


def test_the_nearest_record_is_named_and_what_is_missing_there() -> None:
    far = {**OLDER, "threads": "8"}
    near = {**HERE, "capability": "AVX512", "flags": "amx"}
    records = [Recorded(far, {"a": "1"}), Recorded(near, {"a": "1"})]
    assert looked_up(records[:1], HERE, "a", "1") == (
        "no digest for torch 2.13.0, threads 1; recorded for torch 2.12.0, threads 8")
    assert looked_up([Recorded({**near, "flags": ""}, {"a": "1"})], HERE, "a", "1") == (
        "no digest for capability AVX2, flags none; recorded for capability AVX512, flags none")
    many = {f"x{i}": "1" for i in range(9)}
    assert "x3 none and 5 more; recorded" in looked_up([Recorded({**HERE, **many}, {"a": "1"})],
                                                       HERE, "a", "1")


def test_a_file_is_added_to_and_never_holds_two_digests_of_one_key(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    write_golden(path, [Recorded(HERE, {"a": "1"})])
    write_golden(path, [Recorded(HERE, {"b": "2", "a": "1"}), Recorded(OLDER, {"a": "3"})])
    found = {r.software["torch"]: dict(r.digests) for r in read_golden(path)}
    assert found == {"2.13.0": {"a": "1", "b": "2"}, "2.12.0": {"a": "3"}}
    before = path.read_bytes()
    with pytest.raises(UsageError, match="two digests of a for one software, 1 and 9"):
        write_golden(path, [Recorded(HERE, {"a": "9"})])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        write_golden(path, [])
    with pytest.raises(OSError, match="none"):
        write_golden(tmp_path / "none" / "golden.json", [])


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    with pytest.raises(UsageError, match=r"golden\.json cannot be read: No such file"):
        read_golden(path)
    write_golden(path, [Recorded(HERE, {"a": "1"})])
    whole = path.read_text(encoding="utf-8")
    for text, message in (
        (whole[: len(whole) // 2], "is damaged"),
        (whole.replace('"a": "1"', '"a": "2"'), "its checksum does not fit"),
        (whole.replace('"schema_version": 1', '"schema_version": 2'), "has version 2"),
        ("[]", "holds no golden digests"),
        ("", "is damaged"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            read_golden(path)


def test_a_record_without_digests_is_damage(tmp_path: Path) -> None:
    from sdc_guard.sweep.golden import _checksum

    path = tmp_path / "golden.json"
    for rows in ([{"software": HERE}], [{"software": HERE, "digests": {"a": 1}}], [3]):
        path.write_text(json.dumps({"schema_version": 1, "checksum": _checksum(rows),
                                    "records": rows}), encoding="utf-8")
        with pytest.raises(UsageError, match="lacks software or digests"):
            read_golden(path)


def test_threads_variables_and_switches_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = software_key(PLACE)
    assert before["torch"] == torch.__version__
    assert before["capability"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert software_key(PLACE)["variables"] == "ONEDNN_MAX_CPU_ISA=AVX2"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert software_key(PLACE)["threads"] == "77"


def visited(golden: object, seed: int = 1) -> tuple[set[str], list[Message]]:
    sent: list[Message] = []
    visitor = Visitor(PLACE, {t.name: t for t in TESTS}, sent.append, golden=golden)  # type: ignore[arg-type]
    done = visitor.visit(Visit(test="golden_digests", seed=seed, limit_s=0.05))
    assert not done.error
    return {c.golden for c in done.cases}, sent


def test_a_recorded_digest_is_met_again_with_any_seed(tmp_path: Path) -> None:
    recorded: dict[str, str] = {}

    def record(key: str, digest: str) -> str:
        recorded[key] = digest
        return ""

    visited(record)
    assert recorded
    path = tmp_path / "golden.json"
    write_golden(path, [Recorded(software_key(PLACE), recorded)])
    words, sent = visited(golden_of(PLACE, [path]), seed=2)
    assert "equal" in words
    assert "differs" not in words
    assert not any(isinstance(m, Miscompare) for m in sent)


def test_a_digest_that_differs_is_told_with_the_golden_oracle() -> None:
    words, sent = visited(lambda key, digest: "differs")
    assert words == {"differs"}
    first = next(m for m in sent if isinstance(m, Miscompare))
    assert (first.oracle, first.wrong) == ("golden", first.tried)


def test_operands_are_closed_forms_with_full_mantissas() -> None:
    bits = operand((64, 64), "float32", 0)
    assert np.array_equal(bits, operand((64, 64), "float32", 0))
    assert not np.array_equal(bits, operand((64, 64), "float32", 1))
    ored, anded = np.bitwise_or.reduce(bits, None), np.bitwise_and.reduce(bits, None)
    # Every bit of the fraction and the sign are used in both states.
    assert int(ored & ~anded) & 0x807FFFFF == 0x807FFFFF
    sizes = np.abs(bits.view(np.float32))
    assert sizes.min() > 2.0**-5
    assert sizes.max() < 2


def test_shipped_files_can_be_read_and_name_cases_that_there_are() -> None:
    keys = {case.make(np.random.default_rng(0), PLACE).golden_key
            for case in (*cases(PLACE), *mini_transformer_step.cases(PLACE))}
    for path in SHIPPED.glob("*.json"):
        for record in read_golden(path):
            assert set(record.digests) <= keys
