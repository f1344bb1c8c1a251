"""GitHub's workflow commands: a mark at the user's line for each divergence."""

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Report
from sdc_guard.document.text import one_line, printable, shortened, sound
from sdc_guard.render.described import divergence_text, state_words, title
from sdc_guard.render.places import place_of

MAX_ANNOTATIONS = 10
"""GitHub shows ten of each level for a step."""
MAX_MESSAGE_CHARS = 4000
_LEVELS = {"fail": "error", "inconclusive": "warning", "report": "notice"}


def annotations(report: Report) -> str:
    """One command a line, the failing ones first; then how many more there are.

    A message's line ends and percent signs are escaped, so that no text from outside becomes a
    command of its own.
    """
    found = sorted(divergences(report), key=lambda d: [*_LEVELS].index(d.action))
    lines = []
    for divergence in found[:MAX_ANNOTATIONS]:
        place = place_of(divergence.lead, report)
        text = f"{state_words(divergence)}\n{divergence_text(divergence)}"
        if place.note:
            text += f"\n{place.note}"
        lines.append(_command(_LEVELS[divergence.action], text, file=place.file,
                              line=str(place.line), title=title(divergence)))
    if len(found) > MAX_ANNOTATIONS:
        lines.append(_command(
            "notice", f"{len(found) - MAX_ANNOTATIONS} more divergences are in the summary and in "
                      "the report", title="sdc-guard"))
    return "".join(line + "\n" for line in lines)


def _command(level: str, message: str, **properties: str) -> str:
    fields = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {fields}::{_data(shortened(printable(sound(message)), MAX_MESSAGE_CHARS))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(one_line(sound(text))).replace(":", "%3A").replace(",", "%2C")
