"""The units of this machine that a sweep tests: logical CPUs, CUDA devices, and the host."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdc_guard.errors import UsageError
from sdc_guard.evidence.gpus import gpus
from sdc_guard.evidence.machine import or_unknown
from sdc_guard.sweep.declared import CORE, GPU, HOST, Place

CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
ALL, NONE = "all", "none"
HOST_VARIABLE = "SDC_GUARD_HOST"
_NOT_AMONG = "is not among the cores that this process may run on:"
_CPUINFO_FACTS = {"vendor_id": "vendor", "model name": "model", "cpu family": "family",
                  "model": "model_number", "stepping": "stepping", "microcode": "microcode"}
_TOPOLOGY_FACTS = {"physical_package_id": "socket", "die_id": "die", "core_id": "core_id",
                   "thread_siblings_list": "siblings"}


@dataclass(frozen=True)
class Unit:
    """``core 3`` of ``index`` 3, ``cuda:0`` of ``index`` 0, or ``host``; ``facts`` say which piece
    of hardware it is.  Units with equal ``model`` should give equal bits.  ``cores`` are those of a
    host that take part, empty for all."""

    kind: str
    name: str
    index: int
    facts: dict[str, str] = field(default_factory=dict, compare=False)
    cores: tuple[int, ...] = field(default=(), compare=False)

    @property
    def allowed_cores(self) -> tuple[int, ...]:
        """The logical CPUs that its worker may run on."""
        return (self.index,) if self.kind == CORE else self.cores or usable_cores()

    @property
    def model(self) -> tuple[str, ...]:
        return (self.kind, *(self.facts.get(key, "") for key in
                             ("vendor", "family", "model", "stepping", "capability")))

    def place(self, num_threads: int) -> Place:
        """Where its worker computes."""
        return Place(kind=self.kind, name=self.name, num_threads=num_threads,
                     device=f"cuda:{self.index}" if self.kind == GPU else "cpu")


def host_name() -> str:
    """What this host is called in reports: ``$SDC_GUARD_HOST``, for a container that has a name of
    its own, or the system's name."""
    return os.environ.get(HOST_VARIABLE, "").strip() or socket.gethostname()


def usable_cores() -> tuple[int, ...]:
    """The logical CPUs that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def chosen_units(cores: str, devices: str, *, with_host: bool = True) -> tuple[Unit, ...]:
    """The units of ``--cores`` (``all``, ``none``, ``0,2-5``) and ``--devices`` (``all``, ``cpu``,
    ``none``, ``cuda``, ``cuda:0,cuda:1``); the host too, where any core is among them.

    Raises:
        UsageError: for what is not there, or cannot be read, or if nothing is left.
    """
    there = usable_cores()
    wanted = _cores(cores, there)
    num_gpus = torch.cuda.device_count()
    numbers = _devices(devices, num_gpus)
    if devices == NONE or (devices not in (ALL, "cpu") and "cpu" not in _words(devices)
                           and cores == ALL):
        wanted = ()
    units = [Unit(CORE, f"core {n}", n, facts) for n, facts in
             zip(wanted, map(core_facts, wanted), strict=True)]
    about = or_unknown(lambda: gpus(ask=True)) if numbers else []
    for number in numbers:
        facts = gpu_facts(about, number)
        units.append(Unit(GPU, f"cuda:{number}", number, facts))
    if wanted and with_host:
        units.append(Unit(HOST, "host", 0, {"host": host_name(), **_shared(units)}, wanted))
    if not units:
        raise UsageError("--cores and --devices leave nothing to test; name some, or leave both "
                         "out")
    return tuple(units)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _cores(text: str, there: tuple[int, ...]) -> tuple[int, ...]:
    if text == ALL:
        return there
    if text == NONE:
        return ()
    found: list[int] = []
    for word in _words(text):
        low, dash, high = word.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise UsageError(f"--cores {text!r}: {word!r} is no core; write {ALL}, {NONE}, or "
                             "numbers and ranges such as 0,2-5")
        first, last = int(low), int(high if dash else low)
        if first > last:
            raise UsageError(f"--cores {text!r}: {word!r} runs backwards; write {last}-{first}")
        if last > max(there):  # before a range is made that fills the memory
            raise UsageError(f"--cores {text!r}: {last if last == first else word} {_NOT_AMONG} "
                             f"{ranges(there)}")
        found += range(first, last + 1)
    if not found:
        raise UsageError(f"--cores {text!r} names no core; write {ALL}, {NONE}, or numbers and "
                         "ranges such as 0,2-5")
    absent = sorted(set(found) - set(there))
    if absent:
        raise UsageError(f"--cores {text!r}: {ranges(absent)} {_NOT_AMONG} {ranges(there)}")
    return tuple(sorted(set(found)))


def _devices(text: str, num_gpus: int) -> tuple[int, ...]:
    if text == ALL:
        return tuple(range(num_gpus))
    found: set[int] = set()
    for word in _words(text):
        kind, _, number = word.partition(":")
        if word in ("cpu", NONE):
            continue
        if kind != "cuda" or (number and not number.isdecimal()):
            raise UsageError(f"--devices {text!r}: {word!r} is no device; write {ALL}, cpu, "
                             f"{NONE}, cuda or cuda:0")
        numbers = {int(number)} if number else set(range(num_gpus))
        if not numbers or max(numbers) >= num_gpus:
            seen = (f"torch sees {num_gpus} CUDA device{'s' * (num_gpus != 1)}"
                    + (f", cuda:0 to cuda:{num_gpus - 1}" if num_gpus else
                       " (is this torch built for CUDA, and CUDA_VISIBLE_DEVICES right?)"))
            raise UsageError(f"--devices {text!r}: {word} is not there; {seen}")
        found |= numbers
    return tuple(sorted(found))


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def core_facts(core: int) -> dict[str, str]:
    """Model, microcode, socket, physical core and its siblings, NUMA node; what cannot be read is
    left out."""
    facts = dict(_cpuinfo().get(core, {}))
    folder = CPUS / f"cpu{core}"
    for name, key in _TOPOLOGY_FACTS.items():
        text = _text(folder / "topology" / name)
        if text is not None:
            facts[key] = text
    node = next(iter(sorted(folder.glob("node[0-9]*"))), None)
    if node is not None:
        facts["numa_node"] = node.name.removeprefix("node")
    return facts


def _cpuinfo() -> dict[int, dict[str, str]]:
    """By number of the logical CPU."""
    found: dict[int, dict[str, str]] = {}
    text = _text(CPUINFO) or ""
    for block in text.split("\n\n"):
        pairs = [(key.strip(), value.strip()) for key, _, value in
                 (line.partition(":") for line in block.splitlines())]
        number = dict(pairs).get("processor", "")
        if number.isdecimal():
            found[int(number)] = {_CPUINFO_FACTS[key]: value for key, value in pairs
                                  if key in _CPUINFO_FACTS}
    return found


def gpu_facts(about: object, number: int) -> dict[str, str]:
    """UUID, PCI address, name and firmware, by NVML where it is there."""
    if not isinstance(about, list) or number >= len(about) or not isinstance(about[number], dict):
        return {}
    return {("model" if key == "name" else key): str(value) for key, value in about[number].items()
            if key != "state" and value not in (None, "", "unknown")}


def _shared(units: list[Unit]) -> dict[str, str]:
    """The facts that all have in common."""
    first = units[0].facts
    return {key: value for key, value in first.items()
            if all(u.facts.get(key) == value for u in units)}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
