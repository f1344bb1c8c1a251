"""A bundle file: read it whole and verify every member; nothing is executed or unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)?\.[a-z]+")


class Unreadable(ValueError):
    """The bundle is damaged, truncated, newer than this reader, or asks for what is refused."""


@dataclass(frozen=True)
class Contents:
    """A verified bundle: its manifest and the bytes of each member by name."""

    path: str
    manifest: dict[str, Any]
    members: dict[str, bytes]


def read(path: str) -> Contents:
    """Read and verify a bundle: a ``.sdcz`` file, or a folder into which one was unpacked.

    Raises:
        Unreadable: for a damaged, truncated, foreign or newer bundle.
    """
    try:
        members = _read_folder(path) if os.path.isdir(path) else _read_zip(path)
    except Unreadable:
        raise
    except Exception as error:  # a damaged archive makes zipfile raise almost anything
        raise Unreadable(
            f"{path}: not a readable bundle ({type(error).__name__}: {error}); it is damaged or "
            "truncated: copy it again from where it was written"
        ) from error
    manifest = json.loads(members["manifest.json"])
    for name, entry in manifest["members"].items():
        found = hashlib.sha256(members[name]).hexdigest()
        if found != entry["sha256"] or len(members[name]) != entry["num_bytes"]:
            raise Unreadable(
                f"{path}: member {name} has sha256 {found} and {len(members[name])} bytes, the "
                f"manifest says {entry['sha256']} and {entry['num_bytes']}: the bundle is damaged"
            )
    return Contents(path, manifest, members)


def _check_manifest(path: str, raw: bytes) -> dict[str, Any]:
    manifest = json.loads(raw)
    if not isinstance(manifest, dict) or manifest.get("format") != "sdc_guard bundle":
        raise Unreadable(f"{path}: manifest.json is not the manifest of an sdc_guard bundle")
    version = manifest.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise Unreadable(
            f"{path}: schema_version is {version!r}, this reader knows 1 to {SCHEMA_VERSION}: "
            "read it with a newer torch-sdc-guard"
        )
    for name in manifest["members"]:
        if not _MEMBER_NAME.fullmatch(name):
            raise Unreadable(f"{path}: member name {name!r} is not allowed")
    return manifest


def _read_zip(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        for info in infos.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > os.path.getsize(path):
                raise Unreadable(
                    f"{path}: member {info.filename} claims {info.file_size} bytes by compression "
                    f"method {info.compress_type}; bundles are stored uncompressed (method 0)"
                )
        if infos["manifest.json"].file_size > MAX_MANIFEST_BYTES:
            raise Unreadable(
                f"{path}: manifest.json has {infos['manifest.json'].file_size} bytes, "
                f"limit {MAX_MANIFEST_BYTES}"
            )
        raw = archive.read("manifest.json")
        manifest = _check_manifest(path, raw)
        names = {"manifest.json", *manifest["members"]}
        if set(infos) != names or len(archive.infolist()) != len(names):
            differing = sorted(set(infos) ^ names) or sorted(infos)
            raise Unreadable(
                f"{path}: members missing, doubled or not in the manifest: {differing}"
            )
        members = {name: archive.read(name) for name in manifest["members"]}
    return {"manifest.json": raw, **members}


def _read_folder(path: str) -> dict[str, bytes]:
    def member(name: str) -> bytes:
        with open(os.path.join(path, name), "rb") as file:
            return file.read()

    raw = member("manifest.json")
    return {"manifest.json": raw,
            **{name: member(name) for name in _check_manifest(path, raw)["members"]}}
