"""axe-core finds no serious fault, in light and dark, with all details open."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from sdc_guard.document.schema import Report
from tests import made_reports
from tests.browser.conftest import Open, Opened
from tests.browser.sample_pages import varied_report

REPORTS = {"varied": varied_report, "clean": made_reports.clean_report,
           "hostile": made_reports.hostile_report,
           "sweep": made_reports.sweep_report,
           "hostile sweep": made_reports.hostile_sweep_report}


def faults(opened: Opened) -> list[str]:
    """The serious and critical faults, each with its place."""
    api: Any = importlib.import_module("axe_playwright_python.sync_playwright")
    found = api.Axe().run(opened.page).response
    return [f"{rule['id']} at {node['target']}: {node['failureSummary']}"
            for rule in found["violations"] if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", list(REPORTS))
def test_no_serious_fault(open_page: Open, name: str, scheme: str) -> None:
    report: Report = REPORTS[name]()
    opened = open_page(report, color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert faults(opened) == []


def test_a_fault_would_be_found(open_page: Open) -> None:
    opened = open_page("<!doctype html><html><title>x</title><body style='background:#fff'>"
                       "<p style='color:#ddd'>pale</p><button></button>")
    assert {f.split(" ")[0] for f in faults(opened)} >= {"color-contrast", "button-name"}
