"""Pages: one HTML file each, which opens from disk, without scripts and without a network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from sdc_guard.document.files import write_whole
from sdc_guard.render import console


@cache
def _environment() -> jinja2.Environment:
    """Templates of this package.  Every string is escaped: op names, paths and host names come
    from outside.  A name that a template misspells is an error, not an empty string."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sdc_guard.render", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=lambda value, digits=1: f"{value:.{digits}%}",
        number=lambda value, digits=3: f"{value:.{digits}f}",
        thousands=lambda value: f"{value:,}",
        headline=console.headline,
        extent=console.extent,
        worst=console.worst_line,
        cause=console.cause_line,
        share=console.share,
    )
    return environment


def render_page(template: str, **context: Any) -> str:
    """The page ``templates/<template>`` with these variables, complete and self-contained.

    Raises:
        jinja2.UndefinedError: if the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(**context)


def write_page(path: Path, page: str) -> None:
    """Write under a temporary name, then rename, so that no half page is ever seen at ``path``."""
    write_whole(path, page)
