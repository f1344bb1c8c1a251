"""``sdc-guard history``: what sweeps on this machine found, unit by unit."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdc_guard.errors import UsageError

if TYPE_CHECKING:
    from sdc_guard.sweep.history_rows import UnitRecord

MAX_SWEEPS = 10
MAX_FAILURES = 10
_AGO = re.compile(r"(\d{1,6})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


@click.command("history")
@click.option("--unit", metavar="NAME", help="One unit, such as \"core 3\" or cuda:0.")
@click.option("--host", metavar="NAME", help="The units of one host.")
@click.option("--since", metavar="TIME",
              help="Leave out sweeps that ended before: 12h, 7d, 4w, or a date (2026-11-01).")
@click.option("--state", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help="Where the history lies.  [default: $SDC_GUARD_STATE, else sdc-guard in "
                   "$XDG_STATE_HOME or ~/.local/state]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(
    unit: str | None, host: str | None, since: str | None, state: Path | None, as_json: bool
) -> None:
    """Show each unit's record over time: sweeps, seconds, checks, the words of each test, and all
    that was ever wrong, what was seen once (SUSPECT) included.

    Units that were wrong come first.  Exit code: 0 whatever the record says, 2 wrong usage, 5 if no
    sweep is recorded.

    \b
    Examples:
      sdc-guard history
      sdc-guard history --unit "core 3" --since 30d
      sdc-guard history --json | jq '.units[] | select(.failures != [])'
    """
    from sdc_guard.document.exits import NOTHING_TESTED
    from sdc_guard.plain_json import dumps
    from sdc_guard.sweep.history import FILE, History, state_folder

    path = state_folder(state) / FILE
    moment = None if since is None else _moment(since)
    records: list[UnitRecord] = []
    if path.is_file():
        history = History.open(path, lambda message: click.echo(message, err=True))
        records = history.rows(unit=unit, host=host, since=moment)
        history.close()
    if as_json:
        click.echo(dumps({"path": str(path), "units": records}))
    elif records:
        click.echo("\n\n".join(map(_text, sorted(
            records, key=lambda r: (not r.failures, r.host, r.unit)))))
    if not records:
        what = " that fits" if unit or host or since else ""
        click.echo(f"no sweep{what} is recorded in {path}", err=True)
        raise click.exceptions.Exit(NOTHING_TESTED)


def _moment(text: str) -> datetime:
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(hours=int(ago[1]) * _HOURS[ago[2]])
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"--since {text!r}: give hours, days or weeks (12h, 7d, 4w) or a date "
                         "(2026-11-01)") from error


def _text(record: UnitRecord) -> str:
    """The record as lines: totals, words by test, the latest sweeps, what was wrong."""
    from sdc_guard.document.text import counted, printable

    lines = [f"{record.host}/{record.unit}: {counted(record.num_sweeps, 'sweep')}, "
             f"{record.seconds:,.0f} s, {counted(record.checks, 'check')}; last seen "
             f"{_minute(record.last_utc)}, first {_minute(record.first_utc)}"]
    width = max((len(test) for test in record.words), default=0)
    lines += [f"  {test:<{width}}  {_words(words)}" for test, words in record.words.items()]
    if record.num_sweeps > 1:
        lines += [f"  {_minute(sweep.last_utc)}  {sweep.seconds:,.0f} s, "
                  f"{counted(sweep.checks, 'check')}: {_words(sweep.words) or 'not decided'}"
                  for sweep in record.sweeps[:MAX_SWEEPS]]
        if record.num_sweeps > MAX_SWEEPS:
            lines.append(f"  and {counted(record.num_sweeps - MAX_SWEEPS, 'earlier sweep')}")
    for failure in record.failures[:MAX_FAILURES]:
        rate = f", wrong in {failure.wrong} of {failure.tried}" if failure.tried else ""
        bits = f", xor {failure.xor}" if failure.xor else ""
        lines.append(f"  {_minute(failure.time_utc)}  {failure.word} {failure.test}: {failure.op} "
                     f"{failure.detail}{bits}{rate}")
        if failure.replay:
            lines.append(f"    replay: {failure.replay}")
    if len(record.failures) > MAX_FAILURES:
        lines.append(f"  and {len(record.failures) - MAX_FAILURES} more; --json has them")
    return "\n".join(printable(line.replace("\n", " ")) for line in lines)


def _words(words: dict[str, int]) -> str:
    """``FAIL 1, PASS 12``, the worst first."""
    from sdc_guard.render.swept import word_rank

    return ", ".join(f"{word} {count}" for word, count in
                     sorted(words.items(), key=lambda item: word_rank(item[0])))


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ") or "?"
