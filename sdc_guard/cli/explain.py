"""``sdc-guard explain``: say what a verdict, cause, witness, rule code or exit code means."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict

import click

MAX_SUGGESTIONS = 3


@click.command("explain")
@click.argument("words", nargs=-1, metavar="[CODE]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Say what CODE means, what it proves, what to do, with an example; without CODE list all.

    CODE is a verdict, cause, witness, rule code (SDC102), tool's word (sweep:FAIL) or exit code.

    Exit code: 0, or 2 for a word that is not known.

    \b
    Examples:
      sdc-guard explain                       list everything that can be explained
      sdc-guard explain SDC102                a rule code, as SARIF and the console show it
      sdc-guard explain persistent hardware   a cause
      sdc-guard explain 86                    an exit code
      sdc-guard explain sweep:FAIL --json     a tool's own word, as one JSON document
    """
    from sdc_guard.document.explanations import all_explanations, look_up, names
    from sdc_guard.errors import UsageError

    if not words:
        items = tuple(all_explanations().values())
    else:
        asked = " ".join(words)
        items = look_up(asked)
        if not items:
            near = {n.casefold(): n for n in names()}
            found = difflib.get_close_matches(asked.casefold(), near, n=MAX_SUGGESTIONS)
            hint = (f"did you mean {', '.join(repr(near[n]) for n in found)}?" if found
                    else "`sdc-guard explain` lists all")
            raise UsageError(f"{asked!r} is no word of a report; {hint}")
    if as_json:
        click.echo(json.dumps({"explanations": [asdict(item) for item in items]}, indent=1))
        return
    if not words:
        kind = ""
        for item in items:
            if item.kind != kind:
                kind = item.kind
                click.echo(f"{kind}s:" if kind != "witness" else "witnesses:")
            click.echo(f"  {item.name:<26} {item.meaning.partition('. ')[0].rstrip('.')}")
        return
    for i, item in enumerate(items):
        if i:
            click.echo()
        click.echo(f"{item.name} ({item.kind})")
        for title, text in (("means", item.meaning), ("proves", item.proves), ("do", item.do),
                            ("example", item.example)):
            click.echo(click.wrap_text(text, width=96, initial_indent=f"  {title:<9}",
                                       subsequent_indent=" " * 11))
