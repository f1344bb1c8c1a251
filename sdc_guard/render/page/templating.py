"""The page's templates: escaped, each text shown sound and cut, style and script in the page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, partial
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sdc_guard.document.text import module_name
from sdc_guard.document.verdicts import CLEAN, SEVERITY
from sdc_guard.render.page.grid import known_verdict
from sdc_guard.render.page.text import duration, finalized, short_op

_WORDS = frozenset((*SEVERITY, CLEAN, "new", "known", "expired"))


def slug(word: str) -> str:
    """A word of ours as a CSS class; any other word has none."""
    return word.replace(" ", "-") if word in _WORDS else "other"


@cache
def environment(max_chars: int) -> jinja2.Environment:
    """Every value is escaped, texts longer than ``max_chars`` are visibly cut, and a name that a
    template misspells is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sdc_guard.render", "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=partial(finalized, max_chars=max_chars))
    made.filters.update(slug=slug, short_op=short_op, duration=duration, known=known_verdict,
                        module_name=module_name)
    return made


def render(name: str, max_chars: int, **context: Any) -> str:
    """The template ``report/<name>`` with these variables."""
    return environment(max_chars).get_template(f"report/{name}").render(**context)


@cache
def style() -> Markup:
    """The page's style, blank lines and indents left out."""
    return _inline("page.css")


@cache
def script() -> Markup:
    """The page's only script."""
    return _inline("page.js")


@cache
def script_hash() -> str:
    """What the page's policy calls the script by: ``sha256-...``."""
    digest = hashlib.sha256(str(script()).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _inline(name: str) -> Markup:
    text = resources.files("sdc_guard.render").joinpath("templates", "report", name).read_text(
        encoding="utf-8")
    return Markup("\n".join(line.strip() for line in text.splitlines() if line.strip()))
