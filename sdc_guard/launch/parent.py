"""Starts the user's command with everything that guards it, and waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from sdc_guard.errors import UsageError
from sdc_guard.launch.judged import ROOT
from sdc_guard.launch.waiting import RUN_FOLDER
from sdc_guard.settings import Settings, variables_of

SITE = Path(__file__).parent / "site"
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a shell for a command that cannot be started."""

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_FROM_TERMINAL = ("SIGINT", "SIGQUIT")


def new_folder(out: Path | None, cwd: Path) -> Path:
    """An empty folder for a run: ``out``, or ``out-2`` and so on where it holds an earlier one;
    without ``out`` a folder named by the time.

    Raises:
        UsageError: if it cannot be made.
    """
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    wanted = cwd / (out if out is not None else Path("sdc-guard-runs") / now)
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if folder.is_dir() and not any(folder.iterdir()):
                return folder
        except OSError as error:
            raise UsageError(f"the run's folder {folder} cannot be made: {error.strerror}; name "
                             "another one with --out") from error
        number += 1


def child_environment(
    environ: Mapping[str, str], settings: Settings, folder: Path, root: Path
) -> dict[str, str]:
    """The environment of the guarded command."""
    paths = [str(SITE), *([environ["PYTHONPATH"]] if environ.get("PYTHONPATH") else [])]
    return {**environ, **variables_of(settings), RUN_FOLDER: str(folder), ROOT: str(root),
            "PYTHONPATH": os.pathsep.join(paths)}


def run_command(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command's exit code, as a shell says it: 128 and the number for a signal.

    Signals that reach this process are handed on; the terminal's own reach the child anyway.

    Raises:
        OSError: if the command cannot be started.
    """
    with subprocess.Popen(command, env=dict(environ)) as child, _forwarding(child):
        code = child.wait()
    return 128 - code if code < 0 else code


@contextmanager
def _forwarding(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        if not (_is_in_foreground() and signal.Signals(number).name in _FROM_TERMINAL):
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """True where a key of the terminal sends its signal to this process and to the child alike."""
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
