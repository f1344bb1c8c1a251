"""A sweep's progress: nobody need be there to read it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sdc_guard.cli._sweep_progress import SweepProgress
from sdc_guard.sweep.sweeping import Sweeping


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), SystemExit(1)])
def test_an_output_that_is_gone_ends_the_progress_and_not_the_sweep(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    calls: list[Any] = []

    def fails(self: SweepProgress, sweeping: Any) -> None:
        calls.append(sweeping)
        raise error

    monkeypatch.setattr(SweepProgress, "_show", fails)
    with SweepProgress() as progress:
        progress.show(cast(Sweeping, "a sweep"))
    assert calls == ["a sweep"]
    assert progress._quiet
    monkeypatch.undo()
    progress.show(cast(Sweeping, None))
