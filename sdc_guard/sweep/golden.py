"""Golden digests: results recorded on other hardware, and all that may change them.

A file is JSON: ``schema_version``, ``records`` (each the software and model of hardware that it
was made with, ``software``, and ``digests`` by the key of a case), and ``checksum``, SHA-256 over
the rest.  A digest counts only where every part of ``software`` is equal: for any other there is a
reason, and no verdict.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdc_guard.document.files import is_stream, read_bounded
from sdc_guard.errors import UsageError
from sdc_guard.plain_json import loads
from sdc_guard.sweep.declared import GPU, Place
from sdc_guard.sweep.units import core_facts, usable_cores
from sdc_guard.sweep.visit import Golden

SCHEMA_VERSION = 1
SHIPPED = Path(__file__).with_name("shipped_golden")
EQUAL, DIFFERS = "equal", "differs"
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR",
             "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_DEFAULT_FPMATH_MODE",
             "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")
"""That change which code a library runs."""
MAX_NAMED = 4
CPU_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
             "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd",
             "bf16", "i8mm", "sve", "sve2")
CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu")
_LIBRARIES = {"MKL": r"Math Kernel Library Version (\S+)", "oneDNN": r"MKL-DNN (v\S+)",
              "BLAS": r"BLAS_INFO=(\w+)"}


@dataclass(frozen=True)
class Recorded:
    """Digests by the keys of cases, and the software and hardware that gave them."""

    software: Mapping[str, str]
    digests: dict[str, str]


def software_key(place: Place) -> dict[str, str]:
    """All that may change a result's bits and is no fault: versions, libraries, model of hardware,
    instruction sets, threads, variables and switches."""
    key = {
        "torch": str(torch.__version__), "machine": platform.machine(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "variables": " ".join(f"{name}={os.environ[name]}" for name in VARIABLES
                              if os.environ.get(name)),
    }
    return {**key, **(_gpu_key(place) if place.kind == GPU else _cpu_key())}


def _cpu_key() -> dict[str, str]:
    built = torch.__config__.show()
    facts = core_facts(usable_cores()[0])
    key = {name: found.group(1) if (found := re.search(pattern, built)) else ""
           for name, pattern in _LIBRARIES.items()}
    return {
        **key, "device": "cpu", "capability": torch.backends.cpu.get_cpu_capability(),
        "vendor": facts.get("vendor", ""), "family": facts.get("family", ""),
        "model_number": facts.get("model_number", ""), "flags": _flags(),
        "caches": _caches(usable_cores()[0]), "threads": str(torch.get_num_threads()),
        "mkldnn": str(torch.backends.mkldnn.enabled)}


def _flags() -> str:
    """Instruction sets that a hypervisor may hide from one of two equal processors."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    there = set(found.group(1).split()) if found else set()
    return " ".join(flag for flag in CPU_FLAGS if flag in there)


def _caches(core: int) -> str:
    """Their sizes: libraries cut products into blocks by them, which orders sums."""
    sizes = []
    for size in sorted((CACHES / f"cpu{core}" / "cache").glob("index*/size")):
        try:
            sizes.append(size.read_text(encoding="utf-8").strip())
        except OSError:
            return ""
    return " ".join(sizes)


def _gpu_key(place: Place) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(place.device)
    matmul = torch.backends.cuda.matmul
    return {
        "device": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version()),
        "cublas": _package_version("nvidia-cublas"), "driver": _driver_version(),
        "tf32": f"{matmul.allow_tf32} {torch.backends.cudnn.allow_tf32}",
        "reduced": f"{matmul.allow_bf16_reduced_precision_reduction}"}


def _package_version(name: str) -> str:
    """Of the first installed distribution whose name starts so; empty for none."""
    from importlib.metadata import distributions

    return next((f"{d.name} {d.version}" for d in distributions()
                 if (d.name or "").startswith(name)), "")


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"Module\s+(\S+)", text)
    return found.group(1) if found else text.splitlines()[0][:80]


def read_golden(path: Path) -> tuple[Recorded, ...]:
    """The records of a file.

    Raises:
        UsageError: if it cannot be read, is damaged, or is of another version; with the path.
    """
    try:
        if is_stream(path):  # it is read by each worker, and may have no end
            raise UsageError(f"golden file {path} is no regular file; name one that --write-golden "
                             "made")
        data = read_bounded(path)
    except OSError as error:
        raise UsageError(f"golden file {path} cannot be read: {error.strerror or error}") from error
    try:
        held = loads(data)
    except ValueError as error:
        raise UsageError(f"golden file {path} is damaged: {error}; record it again") from error
    if not isinstance(held, dict) or "schema_version" not in held:
        raise UsageError(f"golden file {path} holds no golden digests")
    version = held["schema_version"]
    if version != SCHEMA_VERSION:
        raise UsageError(f"golden file {path} has version {version!r}; this program reads "
                         f"{SCHEMA_VERSION}: record it again")
    if held.get("checksum") != _checksum(held.get("records")):
        raise UsageError(f"golden file {path} is damaged: its checksum does not fit; record it "
                         "again")
    return tuple(_recorded(path, record) for record in held["records"])


def _recorded(path: Path, record: Any) -> Recorded:
    parts = [record.get(name) if isinstance(record, dict) else None
             for name in ("software", "digests")]
    if not all(isinstance(p, dict) and all(isinstance(v, str) for v in p.values())
               for p in parts):
        raise UsageError(f"golden file {path} is damaged: a record lacks software or digests; "
                         "record it again")
    software, digests = parts
    assert software is not None
    assert digests is not None
    return Recorded(software, digests)


def write_golden(path: Path, records: Iterable[Recorded]) -> None:
    """Add records to a file, or begin one; it is replaced as a whole, or not at all.

    Raises:
        UsageError: if the file is there and cannot be read, or holds another digest for a key.
        OSError: if it cannot be written.
    """
    merged: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    there = read_golden(path) if path.exists() else ()
    for record in (*there, *records):
        _, digests = merged.setdefault(
            _canonical(dict(record.software)), (dict(record.software), {}))
        for key, digest in record.digests.items():
            if digests.setdefault(key, digest) != digest:
                raise UsageError(
                    f"golden file {path} would hold two digests of {key} for one software, "
                    f"{digests[key]} and {digest}: one of the units is wrong, or the operator does "
                    "not give the same bits each time")
    rows = [{"software": software, "digests": dict(sorted(digests.items()))}
            for _, (software, digests) in sorted(merged.items())]
    body = {"schema_version": SCHEMA_VERSION, "checksum": _checksum(rows), "records": rows}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(body, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def golden_of(place: Place, paths: Sequence[Path] = ()) -> Golden:
    """Look-ups among the shipped records and those of ``paths``, for this place's software.

    Raises:
        UsageError: as :func:`read_golden`.
    """
    records = [record for path in (*sorted(SHIPPED.glob("*.json")), *paths)
               for record in read_golden(path)]
    return partial(looked_up, records, software_key(place))


def looked_up(
    records: Sequence[Recorded], software: Mapping[str, str], key: str, digest: str
) -> str:
    """``equal``, ``differs``, or why there is no digest to compare with.  Where two records
    disagree there is none either."""
    having = [record for record in records if key in record.digests]
    fitting = {r.digests[key] for r in having if dict(r.software) == dict(software)}
    if len(fitting) > 1:
        return "two golden files disagree about it"
    if fitting:
        return EQUAL if digest in fitting else DIFFERS
    if not having:
        return "no digest is recorded for this case"
    nearest = min((_differences(software, record.software) for record in having), key=len)
    shown = nearest[:MAX_NAMED]
    more = f" and {len(nearest) - MAX_NAMED} more" if len(nearest) > MAX_NAMED else ""
    here = ", ".join(f"{name} {software.get(name) or 'none'}" for name in shown)
    there = min(having, key=lambda r: len(_differences(software, r.software))).software
    return (f"no digest for {here}{more}; recorded for "
            + ", ".join(f"{name} {there.get(name) or 'none'}" for name in shown))


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _checksum(rows: Any) -> str:
    return hashlib.sha256(_canonical(rows).encode()).hexdigest()
