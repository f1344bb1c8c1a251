"""The report on a run's folder, judged under the settings.  Nothing here imports torch."""

from __future__ import annotations

import os
from pathlib import Path

from sdc_guard.document.schema import Report
from sdc_guard.launch.waiting import given
from sdc_guard.report.baseline import read_baseline
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from sdc_guard.settings import Settings

ROOT = "SDC_GUARD__ROOT"
"""The variable that names the folder which ``sdc-guard run`` was called in."""


def judged_report(folder: Path, settings: Settings, *, title: str = "") -> Report:
    """What the processes of a run have logged below ``folder``, with its judgement.

    Raises:
        UsageError: if nothing was logged, or the baseline cannot be read.
    """
    root = Path(given.get(ROOT) or os.getcwd())
    return judge(
        gather([folder], root=root, title=title),
        policy=settings.policy,
        fail_on=settings.fail_on,
        coverage_floor=settings.coverage_floor,
        baseline=None if settings.baseline is None else read_baseline(root / settings.baseline),
    )
