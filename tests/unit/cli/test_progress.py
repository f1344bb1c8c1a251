"""Progress: a bar on a terminal; plain lines without control characters elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sdc_guard.cli import _progress
from sdc_guard.cli._progress import TrainingProgress, is_interactive


def show(*, terminal: bool, quiet: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    with TrainingProgress(console, quiet=quiet) as progress:
        progress.started("clean", 4)
        for step in range(4):
            progress.stepped("clean", step, 5.0 - step)
        progress.caught("clean", "CORRUPTION in [bold]aten.sum[/bold]")
        progress.finished("clean", 8.5)
    return text.getvalue()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "SECONDS_BETWEEN_LINES", 0.0)
    text = show(terminal=False)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "clean: 4 steps"
    assert "clean: step 2 of 4, loss 4.000, 0 s left" in text
    assert "CORRUPTION in [bold]aten.sum[/bold]" in text
    assert "clean: held-out perplexity 8.500" in text


def test_lines_are_some_seconds_apart() -> None:
    assert "step" not in show(terminal=False).replace("4 steps", "")


def test_a_bar_on_a_terminal() -> None:
    text = show(terminal=True)
    assert "\x1b" in text
    assert "4/4" in text
    assert "loss 2.000" in text


def test_a_ci_log_gets_lines_even_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True)
    assert is_interactive(console)
    monkeypatch.setenv("CI", "true")
    assert not is_interactive(console)
    assert "4/4" not in show(terminal=True)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in show(terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_silent(terminal: bool) -> None:
    assert show(terminal=terminal, quiet=True) == ""
