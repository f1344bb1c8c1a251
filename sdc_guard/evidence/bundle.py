"""Write evidence: one ``.sdcz`` file per finding, from which the call can be made again.

The file is a zip, stored and not compressed, of ``manifest.json`` (operator, arguments, tensor
layouts, thread count, numeric flags, sha256 of every other member), ``finding.json``,
``environment.json``, ``operands/N.bin``, ``held/N.bin``, ``expected/N.bin`` (raw bytes) and
the package ``standalone``, which ``replay.py`` and ``__main__.py`` start: ``python finding.sdcz``
repeats the call with torch alone.
It is written under a temporary name in the same folder, synced, then renamed, so that a file
with the final name is always whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.errors import UsageError
from sdc_guard.evidence.arguments import encode_arguments, op_name, without_user_data
from sdc_guard.evidence.environment import collect_environment
from sdc_guard.evidence.redaction import without_values
from sdc_guard.evidence.standalone import archive
from sdc_guard.evidence.standalone.switches import numeric_flags
from sdc_guard.evidence.tensors_on_disk import (
    Layout,
    NotStorableError,
    c_order_bytes,
    dtype_name,
    lay_out,
    require_storable,
)
from sdc_guard.plain_json import dumps
from sdc_guard.records import Evidence, Finding

LEVELS = ("full", "stats", "none")
Results = tuple[Tensor | None, ...]
"""Flat results: None where an output was masked out or no expected value is known."""
Reduced = tuple[BoundCall, Results, Results]
_Members = dict[str, Callable[[], bytes | memoryview]]

_LAUNCHER = b"""import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, *(a for a in sys.argv[1:] if os.path.exists(a))]
try:
    from standalone.script import main
except ModuleNotFoundError as error:
    sys.stderr.write(f"{error}; give an undamaged bundle, or install torch\\n")
    raise SystemExit(2) from None
raise SystemExit(main())
"""
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@cache
def _script_members() -> dict[str, bytes]:
    """The sources that repeat the call without this package."""
    folder = Path(archive.__file__).parent
    sources = {f"standalone/{p.name}": p.read_bytes() for p in sorted(folder.glob("*.py"))}
    return {**sources, "replay.py": _LAUNCHER, "__main__.py": _LAUNCHER}


@dataclass(frozen=True, slots=True)
class _Packed:
    """A call and its results, laid out but not yet read."""

    layout: Layout
    arguments: list[dict[str, Any]]
    held: Results
    expected: Results

    @property
    def num_bytes(self) -> int:
        results = [t for t in (*self.held, *self.expected) if t is not None]
        return self.layout.num_bytes + sum(t.numel() * t.element_size() for t in results)

    def members(self) -> _Members:
        found: _Members = {
            f"operands/{i}.bin": region.data for i, region in enumerate(self.layout.regions)
        }
        for word, results in (("held", self.held), ("expected", self.expected)):
            for i, tensor in enumerate(results):
                if tensor is not None:
                    found[f"{word}/{i}.bin"] = partial(c_order_bytes, tensor)
        return found

    def manifest(self) -> dict[str, Any]:
        def result(word: str, i: int, tensor: Tensor | None) -> dict[str, Any] | None:
            if tensor is None:
                return None
            return {"member": f"{word}/{i}.bin", "dtype": dtype_name(tensor),
                    "shape": list(tensor.shape)}

        regions = enumerate(self.layout.regions)
        return {
            "arguments": self.arguments,
            "operands": {
                "regions": [region.entry(f"operands/{i}.bin") for i, region in regions],
                "tensors": list(self.layout.entries),
            },
            "held": [result("held", i, t) for i, t in enumerate(self.held)],
            "expected": [result("expected", i, t) for i, t in enumerate(self.expected)],
        }


def _tensors(call: BoundCall) -> tuple[list[Tensor], dict[int, int]]:
    distinct = list({id(t): t for _, t in call.tensors()}.values())
    return distinct, {id(t): i for i, t in enumerate(distinct)}


def _pack(call: BoundCall, held: Results, expected: Results) -> _Packed:
    if len(expected) != len(held):
        raise NotStorableError(
            f"{len(held)} held results and {len(expected)} expected ones were given")
    for tensor in (*held, *expected):
        if tensor is not None:
            require_storable(tensor)
    tensors, index_of = _tensors(call)
    return _Packed(lay_out(tensors), encode_arguments(call, index_of), held, expected)


_NO_CALL: dict[str, Any] = {"arguments": None, "operands": {"regions": [], "tensors": []},
                            "held": [], "expected": []}


class BundleWriter:
    """Stores findings of one run under its caps.  :meth:`write` never raises.

    ``level`` is ``full`` (operands and results), ``stats`` (no user data: shapes, metadata, no
    values) or ``none``.  At most ``max_bundles_per_site`` bundles are kept for one call site;
    ``max_bundle_bytes`` limits the tensors in one bundle, ``max_total_bytes`` the files of the run.

    Raises:
        UsageError: for an unknown level or a negative limit.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        level: str = "full",
        max_bundle_bytes: int = 32 << 20,
        max_bundles_per_site: int = 3,
        max_total_bytes: int = 512 << 20,
    ) -> None:
        if level not in LEVELS:
            raise UsageError(f"evidence={level!r} is unknown; choose one of {', '.join(LEVELS)}")
        limits = {"max_bundle_bytes": max_bundle_bytes, "max_total_bytes": max_total_bytes,
                  "max_bundles_per_site": max_bundles_per_site}
        for name, limit in limits.items():
            if limit < 0:
                raise UsageError(f"{name}={limit} is negative; give 0 or more")
        self.directory = directory
        self.level = level
        self.max_bundle_bytes = max_bundle_bytes
        self.max_bundles_per_site = max_bundles_per_site
        self.max_total_bytes = max_total_bytes
        self.num_written = 0
        self.num_capped = 0
        self.num_failed = 0
        self.total_bytes = 0
        self._per_site: Counter[str] = Counter()
        self._lock = threading.Lock()

    def write(
        self,
        call: BoundCall,
        held: Results,
        expected: Results,
        finding: Finding,
        site: str,
        reduced: Reduced | None = None,
    ) -> Evidence:
        """Store one finding.

        ``call`` holds the operands as they were before the call, ``held`` the flat results in
        use, ``expected`` the right ones where known; ``reduced`` is the same call narrowed to the
        rows and columns needed, stored if the whole exceeds ``max_bundle_bytes``.  Where nothing
        could be stored the returned ``bundle`` is empty and ``note`` says why.
        """
        with self._lock:
            try:
                return self._write(call, held, expected, finding, site, reduced)
            except Exception as error:  # evidence must never stop training
                self.num_failed += 1
                return _nothing(f"not stored: {type(error).__name__}: {error}")

    def _write(
        self, call: BoundCall, held: Results, expected: Results, finding: Finding, site: str,
        reduced: Reduced | None,
    ) -> Evidence:
        if self.level == "none" or self.directory is None:
            given = "evidence level is none" if self.directory else "no directory was given"
            return _nothing(f"not stored: {given}")
        if self._per_site[site] >= self.max_bundles_per_site:
            self.num_capped += 1
            return _nothing(f"capped: this call site has {self._per_site[site]} bundles, "
                            f"limit {self.max_bundles_per_site}")
        packed, note, is_reduced = self._choose(call, held, expected, reduced)
        num_bytes = 0 if packed is None else packed.num_bytes
        if self.total_bytes + num_bytes > self.max_total_bytes:
            self.num_capped += 1
            return _nothing(f"capped: bundles of this run hold {self.total_bytes} bytes, this one "
                            f"needs {num_bytes} more, limit {self.max_total_bytes}")
        self._per_site[site] += 1
        manifest = self._manifest(call, finding, packed, note, is_reduced)
        path = self._free_path(self.directory, finding)
        evidence = Evidence(bundle=str(path), note=note,
                            replay_command=f"sdc-guard replay {shlex.quote(str(path))}")
        told = without_values(finding) if self.level == "stats" else finding
        inside = msgspec.structs.replace(evidence, bundle=path.name,
                                         replay_command=f"sdc-guard replay {path.name}")
        members = {} if packed is None else packed.members()
        members |= {
            "finding.json": lambda: dumps(msgspec.structs.replace(told, evidence=inside)),
            "environment.json": lambda: dumps(collect_environment()),
        }
        self.total_bytes += _save(path, manifest, members)
        self.num_written += 1
        return evidence

    def _choose(
        self, call: BoundCall, held: Results, expected: Results, reduced: Reduced | None
    ) -> tuple[_Packed | None, str, bool]:
        """What to store, the note for the reader, and whether it is the narrowed call."""
        if self.level == "stats":
            return None, "stats only: evidence level is stats, no user data was stored", False
        try:
            packed = _pack(call, held, expected)
            if packed.num_bytes <= self.max_bundle_bytes:
                return packed, "", False
            size = f"the whole call needs {packed.num_bytes} bytes, limit {self.max_bundle_bytes}"
            if reduced is None:
                return None, f"stats only: {size}", False
            small = _pack(*reduced)
        except NotStorableError as error:
            return None, f"stats only: {error}", False
        if small.num_bytes <= self.max_bundle_bytes:
            return small, f"reduced: {size}; the call is narrowed to what is needed", True
        return None, f"stats only: {size}, narrowed it still needs {small.num_bytes}", False

    def _manifest(
        self, call: BoundCall, finding: Finding, packed: _Packed | None, note: str,
        is_reduced: bool,
    ) -> dict[str, Any]:
        described = None
        if packed is None:
            with contextlib.suppress(NotStorableError):
                encoded = encode_arguments(call, _tensors(call)[1])
                described = without_user_data(call, encoded)
        where = f"module {finding.module or '(none)'}, {finding.source or 'source unknown'}"
        return {
            "format": "sdc_guard bundle",
            "schema_version": archive.SCHEMA_VERSION,
            "level": self.level,
            "note": note,
            "reduced": is_reduced,
            "op": op_name(call),
            "headline": f"{finding.verdict.value}, cause then {finding.cause.value}; {where}",
            "held_is_wrong": finding.held_is_wrong,
            "num_threads": finding.call.num_threads or torch.get_num_threads(),
            "flags": numeric_flags(),
            "arguments_described": described,
            **(_NO_CALL if packed is None else packed.manifest()),
        }

    def _free_path(self, directory: Path, finding: Finding) -> Path:
        op = re.sub(r"[^A-Za-z0-9]+", "-", finding.op).strip("-")[:60] or "op"
        stem = f"{op}-step{finding.step}-rank{finding.rank}-{os.getpid()}"
        number = self.num_written
        while (path := directory / f"{stem}-{number}.sdcz").exists():
            number += 1
        return path


def _nothing(note: str) -> Evidence:
    return Evidence(bundle="", replay_command="", note=note)


def _save(path: Path, manifest: dict[str, Any], members: _Members) -> int:
    """Write the zip beside its final name, sync it, rename it; returns its size in bytes.

    Raises:
        OSError: if the disk refuses; no partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    contents = {**{name: get() for name, get in members.items()}, **_script_members()}
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
        for name, data in contents.items()
    }
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in {"manifest.json": dumps(manifest), **contents}.items():
                    with archive.open(zipfile.ZipInfo(name, _ZIP_DATE), "w") as entry:
                        entry.write(data)
            file.flush()
            os.fsync(file.fileno())
            num_bytes = os.fstat(file.fileno()).st_size
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return num_bytes
