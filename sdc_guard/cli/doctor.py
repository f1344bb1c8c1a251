"""``sdc-guard doctor``: say whether checking works here: environment, determinism, self-test."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
CLEAN, DIVERGENCE, INCONCLUSIVE = 0, 1, 3
MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 8)
NUM_REPEATS = 20
WITNESSES = ("replay", "reference", "residual", "checksum", "invariant")


@dataclass(frozen=True)
class Line:
    """One result; ``fix`` says what to do about a warning or a failure."""

    level: str
    name: str
    text: str
    fix: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
def command(as_json: bool) -> None:
    """Look at this machine: versions, threads, whether equal calls give equal bits, and whether
    each witness sees a bit that is flipped on purpose in a copy.

    Exit code: 0 no failure, 1 equal calls gave different bits, 3 something else that checking
    needs does not work.
    """
    lines = list(examine())
    if as_json:
        click.echo(json.dumps({"lines": [asdict(line) for line in lines]}, indent=1))
    else:
        for line in lines:
            click.echo(f"{line.level}  {line.name:<12} {line.text}")
            if line.fix:
                click.echo(f"      {'':<12} -> {line.fix}")
    sys.exit(exit_code(lines))


def exit_code(lines: list[Line]) -> int:
    """A machine that does not repeat itself is a divergence; other failures conclude nothing."""
    failed = {line.name for line in lines if line.level == FAIL}
    if "determinism" in failed:
        return DIVERGENCE
    return INCONCLUSIVE if failed else CLEAN


def examine() -> Iterator[Line]:
    """All lines, the cheap ones first."""
    yield _python()
    yield _torch()
    yield _triton()
    yield _devices()
    yield _second_place()
    yield _threads()
    yield _matmul_precision()
    yield from _accumulators()
    yield _determinism()
    yield from _witnesses()


def _python() -> Line:
    version = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        return Line(FAIL, "python", version, "use Python 3.11 or newer")
    return Line(PASS, "python", version)


def _torch() -> Line:
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < MIN_TORCH:
        return Line(FAIL, "torch", torch.__version__, "install torch 2.8 or newer")
    return Line(PASS, "torch", torch.__version__)


def _triton() -> Line:
    if importlib.util.find_spec("triton") is None:
        return Line(WARN, "triton", "not installed: device operands are not checked by kernels",
                    "nothing to do on a CPU; else install triton, which has wheels for Linux")
    return Line(PASS, "triton", "installed")


def _devices() -> Line:
    import torch

    if not torch.cuda.is_available():
        return Line(PASS, "devices", "CPU only")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Line(PASS, "devices", f"CPU and {', '.join(names)}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _second_place() -> Line:
    cores = _cores()
    if cores < 2 or not hasattr(os, "sched_setaffinity"):
        return Line(WARN, "cores", f"{cores}, and no second place to repeat a call",
                    "allow two or more cores (taskset, cgroup), or causes stay \"unknown\"")
    return Line(PASS, "cores", f"{cores}: a wrong call can be repeated on another core")


def _threads() -> Line:
    import torch

    threads, cores = torch.get_num_threads(), _cores()
    if threads > cores:
        return Line(WARN, "threads", f"{threads} threads on {cores} cores",
                    f"set OMP_NUM_THREADS={cores}; more threads than cores only cost time")
    return Line(PASS, "threads", f"{threads} on {cores} cores")


def _matmul_precision() -> Line:
    import torch

    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        return Line(WARN, "precision",
                    f"float32 products may run in a narrower format ({precision!r})",
                    "bounds allow for it; torch.set_float32_matmul_precision('highest') is sharper")
    return Line(PASS, "precision", "float32 products run in float32")


def _accumulators() -> Iterator[Line]:
    """How each device adds up products, one line for each thing that some of them do."""
    import torch

    from sdc_guard.check.probe import is_ieee, probe

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        lines: dict[tuple[str, str, str], list[str]] = {}
        for found in probe(device):
            if found.failure:
                continue
            text = "fits no known model" if found.model is None else found.model.describe()
            odd = found.model is None or (found.kind == "float32" and not is_ieee(found.model))
            level = WARN if odd else PASS
            lines.setdefault((level, found.kind, text), []).append(found.route)
        for (level, kind, text), routes in lines.items():
            yield Line(level, "accumulator", f"{device}, {kind}: {text} ({', '.join(routes)})",
                       "bounds of products may not hold there; please report it with this output"
                       if level == WARN else "")


def _determinism() -> Line:
    import torch

    from sdc_guard.bits import bits_equal

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 256, generator=generator)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "mm": lambda: x @ x,
        "sum": lambda: x.sum(dim=0),
        "softmax": lambda: x.softmax(dim=-1),
        "layer_norm": lambda: torch.nn.functional.layer_norm(x, (256,)),
    }
    broken = []
    for name, call in calls.items():
        first = call()
        num_other = sum(not bits_equal(call(), first) for _ in range(NUM_REPEATS))
        if num_other:
            broken.append(f"{name} {num_other} of {NUM_REPEATS}")
    if broken:
        return Line(FAIL, "determinism", f"equal calls gave other bits: {', '.join(broken)}",
                    "this machine or this build of torch is not to be trusted; run it elsewhere")
    return Line(PASS, "determinism",
                f"{NUM_REPEATS} equal calls of {', '.join(calls)} gave equal bits")


def _witnesses() -> Iterator[Line]:
    from sdc_guard.check.selftest import dead_witnesses

    dead = dead_witnesses()
    for witness in sorted({*WITNESSES, *dead}):
        if witness in dead:
            yield Line(FAIL, "witness", f"{witness} missed a planted flip, or complained of none",
                       "it is not used on this machine; please report it with this output")
        else:
            yield Line(PASS, "witness", f"{witness} saw the flip that was planted in a copy")
