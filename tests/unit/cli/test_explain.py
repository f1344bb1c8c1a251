"""``sdc-guard explain``: every word of a report is explained, without torch."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.main import main
from sdc_guard.document import exits
from sdc_guard.document.codes import RULES, WITNESSES
from sdc_guard.document.explanations import all_explanations, look_up, names
from sdc_guard.document.verdicts import WORDS
from sdc_guard.records import Cause, Verdict
from tests.meta.test_imports import modules_after

EXPLAIN = ("from sdc_guard.cli.main import main; "
           "main(['explain', 'SDC102'], standalone_mode=False)")


def explain(*words: str) -> Result:
    return CliRunner().invoke(main, ["explain", *words])


def test_every_entry_of_every_table_is_explained() -> None:
    tables = {v.value for v in Verdict} | {c.value for c in Cause} | set(WITNESSES) | set(RULES)
    tables |= {f"{tool}:{word}" for tool, words in WORDS.items() for word in words}
    tables |= {str(code) for code in exits.MEANINGS}
    tables |= {"new", "known", "expired", "fixed", "stale", "carried"}
    found = all_explanations()
    assert set(found) == tables
    for item in found.values():
        assert all((item.meaning, item.proves, item.do, item.example)), item.name


def test_no_name_stands_for_two_things() -> None:
    items = list(all_explanations())
    assert len({name.casefold() for name in items}) == len(items)


@pytest.mark.parametrize("asked", sorted(names()))
def test_every_name_finds_something(asked: str) -> None:
    assert look_up(asked)


@pytest.mark.parametrize(("words", "head"), [
    (["SDC102"], "SDC102 (rule)"),
    (["sdc102"], "SDC102 (rule)"),
    (["corruption-by-reference"], "SDC102 (rule)"),
    (["not", "tested"], "not tested (verdict)"),
    (["persistent_hardware"], "persistent hardware (cause)"),
    (["86"], "86 (exit code)"),
    (["sweep:FAIL"], "sweep:FAIL (word)"),
    (["SUSPECT"], "sweep:SUSPECT (word)"),
])
def test_a_word_is_found_as_people_write_it(words: list[str], head: str) -> None:
    result = explain(*words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == head
    assert [line.split()[0] for line in lines[1:] if line[2] != " "] == [
        "means", "proves", "do", "example"]


def test_a_word_of_several_tools_is_explained_for_each() -> None:
    assert {e.name for e in look_up("crash")} == {"hunt:crash"}
    result = explain("found")
    assert result.stdout.startswith("bench:found (word)")


@pytest.mark.parametrize(("asked", "hint"), [
    ("SDC1022", "did you mean 'SDC102'"),
    ("coruption", "did you mean 'corruption'"),
    ("zzzzzz", "`sdc-guard explain` lists all"),
])
def test_an_unknown_word_is_wrong_usage_with_a_suggestion(asked: str, hint: str) -> None:
    result = explain(asked)
    assert result.exit_code == 2
    assert hint in result.stderr


def test_without_a_word_all_are_listed() -> None:
    result = explain()
    assert result.exit_code == 0
    for title in ("verdicts:", "causes:", "witnesses:", "rules:", "words:", "exit codes:"):
        assert title in result.stdout.splitlines()
    assert all(f"  {name} " in result.stdout for name in all_explanations())


def test_json_is_one_document() -> None:
    assert len(json.loads(explain("--json").stdout)["explanations"]) == len(all_explanations())
    (item,) = json.loads(explain("86", "--json").stdout)["explanations"]
    assert item["kind"] == "exit code"


def test_it_needs_no_torch() -> None:
    loaded = modules_after(EXPLAIN)
    assert "sdc_guard.document.explanations" in loaded
    assert loaded.isdisjoint({"torch", "numpy"})
