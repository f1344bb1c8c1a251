"""The report's page: self-contained, inert, sound, within its size, and readable without script."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from sdc_guard.document.schema import Entry, Judgement, Known, Report
from sdc_guard.errors import UsageError
from sdc_guard.records import Evidence, Verdict
from sdc_guard.render.page import MIN_BYTES, report_page
from sdc_guard.render.page.banner import banner_of
from sdc_guard.render.page.groups import groups_of
from sdc_guard.render.page.links import bundle_link
from sdc_guard.render.report_text import report_text
from sdc_guard.report.entries import entry_of
from sdc_guard.report.judging import judge
from tests import made_reports
from tests.meta.tree import ROOT

VOID = {"meta", "input", "img", "use", "br", "path", "rect", "circle", "line"}


class Page(HTMLParser):
    """A page taken apart: its addresses, its text without script and style, its open elements."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.policy = ""
        self.text = ""
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.handlers += [name for name in named if name.startswith("on")]
        self.addresses += [named[name] or "" for name in ("src", "href", "action", "data", "srcset")
                           if name in named]
        self.ids += [named["id"] or ""] if "id" in named else []
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def many(number: int) -> Report:
    """So many findings, each of a kind of its own, every fourth of them a corruption."""
    base = made_reports.made_report(4)
    entries = []
    for i in range(number):
        verdict = list(Verdict)[i % 4]
        entries.append(msgspec.structs.replace(base.findings[i % 4], id=f"{i:016x}",
                                               verdict=verdict, time_s=float(i)))
    return msgspec.structs.replace(base, findings=tuple(entries))


def with_evidence(bundle: str) -> Report:
    finding = msgspec.structs.replace(
        made_reports.made_finding(), evidence=Evidence(bundle=bundle, replay_command="", note=""))
    return made_reports.made_report(0, findings=(entry_of(
        finding, tool="guard", run="elsewhere", root=made_reports.ROOT),))


REPORTS = {
    "findings": made_reports.made_report(),
    "clean": made_reports.clean_report(),
    "empty": made_reports.empty_report(),
    "hostile": made_reports.hostile_report(),
    "truncated": many(600),
}


@pytest.fixture(scope="module", params=list(REPORTS))
def page(request: pytest.FixtureRequest) -> str:
    limit = MIN_BYTES if request.param == "truncated" else 2_000_000
    return report_page(REPORTS[request.param], max_bytes=limit)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    addresses = Page(page).addresses
    assert addresses
    assert not [a for a in addresses
                if not a.startswith(("#", "data:image/png;base64,", "./", "file:///"))]
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_the_one_script_and_nothing_else(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert Page(page).policy.split("; ") == [
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:",
        f"script-src 'sha256-{digest}'", "form-action 'none'", "base-uri 'none'"]


def test_the_page_is_well_formed(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {a[1:] for a in parsed.addresses if a.startswith("#")} <= set(parsed.ids)


def test_no_text_becomes_a_program(page: str) -> None:
    parsed = Page(page)
    assert parsed.handlers == []
    assert parsed.tags.count("script") == 1
    assert "iframe" not in parsed.tags


def test_control_characters_are_shown_and_never_written(page: str) -> None:
    controls = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]"
    assert not re.search(controls, page)


def test_hostile_texts_are_visible() -> None:
    text = Page(report_page(made_reports.hostile_report())).text
    assert "</script><img onerror=alert(1) src=x>'\"&\\x00\\x1b[31m\\u2028" in text
    assert "nan, payload 0x412345" in text
    assert "0x7fc12345" in text
    assert "an undefined number of ulps" in text


def test_unpaired_surrogates_and_reordering_marks_are_shown() -> None:
    report = made_reports.made_report(0, title="a\udc80b\u202ec")
    assert "a\\udc80b\\u202ec" in Page(report_page(report)).text


@pytest.mark.parametrize(("bundle", "address"), [
    ("runs/a/x.sdcz", "./runs/a/x.sdcz"),
    ("/tmp/run 1/x.sdcz", "file:///tmp/run%201/x.sdcz"),
    ("javascript:alert(1)//x.sdcz", "./javascript%3Aalert%281%29//x.sdcz"),
    ("//host/share/x.sdcz", ""),
    ("\\\\host\\share\\x.sdcz", ""),
    ("runs/a\n.sdcz", "./runs/a%0A.sdcz"),
    ("runs/\u202ea.sdcz", ""),
    ("runs/a/notes.html", ""),
])
def test_a_link_to_evidence_is_a_path_and_nothing_else(bundle: str, address: str) -> None:
    links = [a for a in Page(report_page(with_evidence(bundle))).addresses if ".sdcz" in a]
    assert links == ([address] if address else [])


@pytest.mark.parametrize(("bundle", "log", "folder", "address"), [
    ("runs/a/bundles/x.sdcz", "runs/a/events.rank0.jsonl", "runs/a", "./bundles/x.sdcz"),
    ("/old/bundles/x.sdcz", "moved/events.rank0.jsonl", "pages", "./../moved/bundles/x.sdcz"),
    ("runs/a/bundles/x.sdcz", "runs/a/events.rank0.jsonl", None, "./runs/a/bundles/x.sdcz"),
    ("/runs/b/x.sdcz", "/runs/b/x.sdcz", "/runs/b", "./x.sdcz"),
    ("/runs/b/x.sdcz", "", None, "file:///runs/b/x.sdcz"),
    ("C:\\runs\\x.sdcz", "", None, "file:///C:/runs/x.sdcz"),
])
def test_a_bundle_is_looked_for_beside_its_log_and_seen_from_the_page(
    bundle: str, log: str, folder: str | None, address: str
) -> None:
    assert bundle_link(bundle, log, None if folder is None else Path(folder)) == address


def test_the_verdict_stands_in_the_page_s_own_text() -> None:
    text = Page(report_page(made_reports.made_report())).text
    assert "Corruption: 3 wrong results in sum.dim_IntList" in text
    for line in ("aten.sum.dim_IntList, forward", "train/model.py:57", "step 41 of 50",
                 "2026-11-23 10:00:10 UTC", "got 25.0, expected 17.0: 4.2e+06 ulps off",
                 "sdc-guard replay runs/a/bundles/aten-sum-0.sdcz", "518 of 560"):
        assert line in text


def test_steps_that_nobody_watched_count_as_not_checked() -> None:
    run = made_reports.made_run(coverage=made_reports.made_coverage(steps_unwatched=40))
    report = made_reports.made_report(0, runs=(run,))
    assert round(report.call_share, 9) == round(518 / 560 * 10 / 50, 9)
    text = Page(report_page(report)).text
    assert "about 18.5\u00a0% of all calls" in text
    assert "40 not watched" in text


def test_a_clean_page_says_what_it_proves_and_what_not() -> None:
    text = Page(report_page(made_reports.clean_report())).text
    assert "No divergence in what was checked: 92.5\u00a0% of the calls" in text
    assert "fewer than 1 in 173 is wrong in a way that its witness would see (95\u00a0% c" in text
    assert "42 calls not checked" in text
    assert "What forked processes (DataLoader workers) compute is not watched." in text
    assert "not checked is never clean" in text
    assert "random draw" in text


def test_nothing_checked_is_not_called_clean() -> None:
    text = Page(report_page(made_reports.empty_report())).text
    assert "Not tested: nothing was checked" in text
    assert "No divergence" not in text
    for line in ("No finding was recorded.", "No test on any unit is recorded.",
                 "The modules of the model are not recorded.", "No run says what it covered.",
                 "No run says where it ran.", "no run can be read"):
        assert line in text


def test_too_few_checks_prove_no_share_and_few_are_not_none() -> None:
    op = msgspec.structs.replace(made_reports.made_coverage().ops[0], calls=93, calls_checked=2)
    coverage = made_reports.made_coverage(ops=(op,), steps=60, steps_unwatched=60)
    report = made_reports.made_report(0, runs=(made_reports.made_run(coverage=coverage),))
    text = Page(report_page(report)).text
    assert "less than 0.1\u00a0% of all calls" in text
    assert "1 in 1 is wrong" not in text
    assert "2 checked calls: too few to say what share of all calls is right." in text


def test_a_run_that_was_killed_before_it_told_anything_is_inconclusive() -> None:
    run = made_reports.made_run(coverage=None, timeline=(), is_complete=False)
    text = Page(report_page(judge(made_reports.made_report(0, runs=(run,), cells=())))).text
    assert "Nothing known: 1 of 1 run did not end in order" in text
    assert "nothing was checked" not in text


def test_a_call_outside_of_any_module_is_placed_by_its_line_and_rank() -> None:
    entries = tuple(
        msgspec.structs.replace(e, finding=msgspec.structs.replace(
            e.finding, rank=1, call=msgspec.structs.replace(e.finding.call, module="?")))
        for e in made_reports.made_report(1).findings)
    runs = tuple(made_reports.made_run(n, rank=n) for n in (0, 1))
    report = judge(made_reports.made_report(0, findings=entries, runs=runs))
    banner = banner_of(report, groups_of(report))
    where = dict(banner.facts)["Where"]
    assert where[0].startswith("train/model.py:")
    assert where[1] == "(no module)"
    assert where[2].endswith(", rank 1")
    assert " ?" not in report_text(report)
    assert "Fails on what the policy says alone." in Page(report_page(report)).text


def test_a_run_that_was_killed_is_not_called_clean() -> None:
    killed = made_reports.made_run(coverage=None, is_complete=False)
    text = Page(report_page(made_reports.made_report(0, runs=(killed,), cells=()))).text
    assert "No divergence seen, but 1 of 1 run did not end in order" in text


def test_a_corrupt_cell_without_a_finding_is_not_called_clean() -> None:
    cell = made_reports.made_report().cells[1]
    text = Page(report_page(made_reports.made_report(0, cells=(cell,)))).text
    assert "Corruption in 1 test, no finding was recorded" in text


def test_the_judgement_is_shown() -> None:
    report = made_reports.made_report()
    known = Known(id="0" * 16, verdict="precision", op="aten.mm", where="a.py", torch="2.13",
                  device="cpu", reason="half-precision accumulation", expires="2027-03-31")
    judgement = Judgement(
        exit_code=0, status="known 1", reasons=("all findings are known",), fail_on=("new",),
        policy={"corruption": "fail"}, baseline="reports/baseline/cpu.txt",
        states={report.findings[0].id: "known"}, worse=(report.findings[0].id,), fixed=(known,),
        environment_changes=("torch: 2.12.0 -> 2.13.0",))
    text = Page(report_page(msgspec.structs.replace(report, judgement=judgement))).text
    for line in ("Known corruption: 3 wrong results", "exit 0", "all findings are known",
                 "half-precision accumulation", "torch: 2.12.0 -> 2.13.0", "1 fixed",
                 "worse than known"):
        assert line in text


def test_thirty_thousand_kinds_fit_and_what_is_left_out_is_counted() -> None:
    start_s = time.process_time()
    report_page(many(3_000))
    a_tenth_s = time.process_time() - start_s
    start_s = time.process_time()
    page = report_page(many(30_000))
    assert time.process_time() - start_s < 40 * a_tenth_s, "it grows with the square"
    assert len(page.encode()) <= 2_000_000
    parsed = Page(page)
    num_rows = page.count('<details class="finding ')
    assert num_rows > 500
    assert f"{30_000 - num_rows:,} more kinds of finding" in parsed.text
    assert page.count("Details left out") > 10
    rows = re.findall(r'<details class="finding v-([a-z-]+)"', page)
    assert set(rows) == {"corruption"}  # the most severe are kept


def test_thirty_thousand_of_one_kind_fit() -> None:
    report = made_reports.made_report(3)
    entries = tuple(msgspec.structs.replace(report.findings[i % 3], time_s=float(i))
                    for i in range(30_000))
    page = report_page(msgspec.structs.replace(report, findings=entries))
    assert len(page.encode()) < 300_000
    assert "29,980 more not shown" in page


@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 200_000, 400_000])
def test_the_limit_holds_for_a_report_that_is_large_everywhere(max_bytes: int) -> None:
    text = "x" * 100_000
    run = made_reports.made_run(
        environment={f"{i}": {text: text} for i in range(30)}, problems=(text,) * 30, script=text)
    entries: list[Entry] = []
    for i in range(30):
        finding = made_reports.made_finding(i, arguments=text, message=text, module=f"{i}.{text}")
        entries.append(msgspec.structs.replace(
            entry_of(finding, tool="guard", run=run.id, root=made_reports.ROOT, test=text),
            id=f"{i:016x}"))
    page = report_page(made_reports.made_report(
        0, runs=(run,) * 30, findings=tuple(entries), sources=(text,) * 30, problems=(text,) * 30,
        cut={f"{i}{text}": 1 for i in range(30)}), max_bytes=max_bytes)
    assert len(page.encode()) <= max_bytes
    assert "more characters)" in page
    assert Page(page).open == []


def test_a_limit_below_the_frame_is_refused() -> None:
    with pytest.raises(UsageError, match=f"max_bytes=1000: .* at least {MIN_BYTES}"):
        report_page(made_reports.clean_report(), max_bytes=1000)


def test_a_planted_address_handler_or_open_element_would_be_seen() -> None:
    parsed = Page('<img src="https://example.org/x"><p onclick="x()"><b>')
    assert parsed.addresses == ["https://example.org/x"]
    assert parsed.handlers == ["onclick"]
    assert parsed.open == ["p", "b"]


def test_the_page_imports_no_torch() -> None:
    code = ("import sys; sys.path[:0] = ['.', 'kernels']; import sdc_guard.render.page; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
