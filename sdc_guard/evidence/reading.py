"""Read evidence back: the finding, the environment, and the call on rebuilt memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.errors import BundleError
from sdc_guard.evidence.standalone.archive import Contents, Unreadable, read
from sdc_guard.evidence.standalone.rebuild import arguments_of, build_result, resolve_op
from sdc_guard.plain_json import read_record
from sdc_guard.records import Finding


@contextmanager
def _as_bundle_error(path: str) -> Iterator[None]:
    try:
        yield
    except BundleError:
        raise
    except Unreadable as error:
        raise BundleError(str(error)) from error
    except Exception as error:  # a forged manifest can break any assumption
        raise BundleError(
            f"{path}: the bundle is malformed ({type(error).__name__}: {error}); it was not "
            "written by this package or was changed since"
        ) from error


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.  ``held`` and ``expected`` are contiguous tensors on the CPU,
    None where an output was masked out or no expected value is known."""

    path: Path
    contents: Contents
    finding: Finding
    environment: dict[str, Any]
    held: tuple[Tensor | None, ...]
    expected: tuple[Tensor | None, ...]

    @property
    def op(self) -> str:
        return str(self.contents.manifest["op"])

    @property
    def note(self) -> str:
        return str(self.contents.manifest["note"])

    @property
    def is_reduced(self) -> bool:
        """True if the stored call is a part of the call that was found wrong."""
        return bool(self.contents.manifest["reduced"])

    @property
    def has_call(self) -> bool:
        """False for a bundle that holds the finding without tensors."""
        return self.contents.manifest["arguments"] is not None

    @property
    def flags(self) -> dict[str, Any]:
        return dict(self.contents.manifest["flags"])

    @property
    def num_threads(self) -> int:
        return int(self.contents.manifest["num_threads"])

    @cached_property
    def call(self) -> BoundCall:
        """The call on memory of its own; see :meth:`fresh_call`."""
        return self.fresh_call()

    def fresh_call(self, device: str | None = None) -> BoundCall:
        """The call on newly rebuilt operands: bits, strides, alignment, shared memory as recorded.

        ``device`` takes the place of the one on which the call ran.

        Raises:
            BundleError: if the bundle holds no call, or its operator is not registered here or
                is refused, or a device is missing.
        """
        if not self.has_call:
            raise BundleError(f"{self.path}: there is no call to repeat: {self.note}")
        with _as_bundle_error(str(self.path)):
            op = resolve_op(self.op)
            args = arguments_of(self.contents, op, device)
            return BoundCall(form_of(op), args)


def read_bundle(path: Path | str) -> Bundle:
    """Read and verify a bundle; nothing in it is executed or unpickled.

    Raises:
        BundleError: for a damaged, truncated, foreign or newer file.
    """
    with _as_bundle_error(str(path)):
        contents = read(str(path))
        manifest, members = contents.manifest, contents.members
        try:
            finding = read_record(members["finding.json"], Finding)
        except msgspec.ValidationError as error:
            raise BundleError(f"{path}: finding.json is not a finding: {error}") from error
        if len(manifest["held"]) != len(manifest["expected"]):
            raise BundleError(f"{path}: {len(manifest['held'])} held results, "
                              f"{len(manifest['expected'])} expected ones")
        held = tuple(build_result(contents, e) for e in manifest["held"])
        expected = tuple(build_result(contents, e) for e in manifest["expected"])
        environment = json.loads(members["environment.json"])
        return Bundle(Path(path), contents, finding, environment, held, expected)
