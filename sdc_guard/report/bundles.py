"""A bundle alone to a report: its finding and its environment, without its tensors."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec

from sdc_guard.document.schema import SCHEMA_VERSION, Report, Run
from sdc_guard.errors import UsageError
from sdc_guard.plain_json import loads, record_of
from sdc_guard.records import Finding
from sdc_guard.report.entries import entry_of
from sdc_guard.report.text import sound_values
from sdc_guard.version import __version__

MAX_MEMBER_BYTES = 16 << 20


def bundle_report(path: Path, root: Path) -> Report:
    """The finding that a bundle was written for.  Nothing in it is executed or unpickled.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            finding = record_of(_member(archive, "finding.json"), Finding)
            environment = _member(archive, "environment.json")
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
            KeyError, ValueError, TypeError, OverflowError, NotImplementedError, RuntimeError,
            msgspec.ValidationError) as error:
        raise UsageError(f"{path} is no bundle that can be read: {error}") from error
    if not isinstance(environment, dict):
        environment = {}
    name = str(path)
    evidence = msgspec.structs.replace(finding.evidence, bundle=name)
    finding = msgspec.structs.replace(finding, evidence=evidence)
    host = str(environment.get("host", ""))
    run = Run(id=f"bundle {path.name}", kind="guard", rank=finding.rank, pid=0, host=host,
              start_utc="", source=name, environment=environment,
              problems=("this is a finding alone: what else was checked is not known",))
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__, created_utc="", title="",
        sources=(name,), runs=(run,),
        findings=(entry_of(finding, tool="guard", run=run.id, root=root, host=host),))


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes, limit {MAX_MEMBER_BYTES}")
    # Of a file whose head tells too small a size, reading all would unpack all.
    with archive.open(info) as file:
        data = file.read(MAX_MEMBER_BYTES + 1)
    return sound_values(loads(data))
