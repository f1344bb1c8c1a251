"""Temperature and clock of a unit, where they can be read without privileges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from sdc_guard.evidence.gpus import gpus
from sdc_guard.sweep.declared import GPU

HWMON = Path("/sys/class/hwmon")
CPUS = Path("/sys/devices/system/cpu")
CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


def sensors_of(kind: str, index: int) -> Callable[[], dict[str, float]]:
    """What reads them: ``temperature_c`` and ``mhz`` of a core (the hottest sensor of the
    processor, where none is the core's own), of a GPU ``power_w`` too.  What is unreadable is left
    out, and nothing is raised."""
    if kind == GPU:
        return lambda: _gpu(index)
    return lambda: _core(index)


def _core(index: int) -> dict[str, float]:
    found: dict[str, float] = {}
    khz = _number(CPUS / f"cpu{index}" / "cpufreq" / "scaling_cur_freq")
    if khz is not None:
        found["mhz"] = khz / 1000
    temperatures = [t for t in map(_number, _inputs()) if t is not None]
    if temperatures:
        found["temperature_c"] = max(temperatures) / 1000
    return found


@cache
def _inputs() -> tuple[Path, ...]:
    found: list[Path] = []
    for chip in sorted(HWMON.glob("hwmon*")):
        try:
            name = (chip / "name").read_text().strip()
        except OSError:
            continue
        if name in CHIPS:
            found += sorted(chip.glob("temp*_input"))
    return tuple(found)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _gpu(index: int) -> dict[str, float]:
    try:
        state = gpus(ask=True)[index].get("state", {})
    except Exception:
        return {}
    names = {"temperature_c": "temperature_c", "sm_mhz": "mhz", "power_w": "power_w"}
    return {names[key]: float(value) for key, value in state.items()
            if key in names and isinstance(value, (int, float))}
