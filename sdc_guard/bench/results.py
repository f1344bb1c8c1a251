"""Result files: JSON with a stamp of where and how they were made, and a README next to them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sdc_guard.bench.detection import Campaign, CleanRun, Rate
from sdc_guard.bench.overhead import Overhead, render_overhead
from sdc_guard.bench.trial import Trial
from sdc_guard.errors import UsageError
from sdc_guard.evidence.environment import collect_environment
from sdc_guard.intervals import Interval
from sdc_guard.records import Record

_PACKAGE = Path(__file__).resolve().parent.parent


class Stamp(Record, frozen=True, kw_only=True):
    """How a file was made.  ``commits``: every commit that measured for it, ``+`` marks one with
    local changes.  ``load``: mean number of running processes over the minute before the end."""

    commands: tuple[str, ...]
    commits: tuple[str, ...]
    seed: int
    python: str
    torch: str
    numpy: str
    platform: str
    processor: str
    instruction_set: str
    num_cores: int
    devices: tuple[str, ...]
    load: float


class OverheadFile(Record, frozen=True, kw_only=True):
    """``overhead.json``."""

    stamp: Stamp
    results: tuple[Overhead, ...]


class DetectionFile(Record, frozen=True, kw_only=True):
    """``detection.json``: campaigns that can be continued."""

    stamp: Stamp
    campaigns: tuple[Campaign, ...]

    def find(self, empty: Campaign) -> Campaign:
        """The campaign of the same label, model, seed and steps; ``empty`` if there is none."""
        key = _key(empty)
        return next((c for c in self.campaigns if _key(c) == key), empty)

    def with_campaign(self, stamp: Stamp, campaign: Campaign) -> DetectionFile:
        others = tuple(c for c in self.campaigns if _key(c) != _key(campaign))
        return DetectionFile(stamp=_joined(self.stamp, stamp), campaigns=(*others, campaign))


class CleanFile(Record, frozen=True, kw_only=True):
    """``clean.json``."""

    stamp: Stamp
    runs: tuple[CleanRun, ...]


_File = TypeVar("_File", OverheadFile, DetectionFile, CleanFile)


def _key(campaign: Campaign) -> tuple[object, ...]:
    return (campaign.label, campaign.model, campaign.seed, campaign.warmup_steps,
            campaign.steps_repeated)


def _joined(old: Stamp, new: Stamp) -> Stamp:
    return msgspec.structs.replace(
        new, commands=tuple(dict.fromkeys((*old.commands, *new.commands))),
        commits=tuple(dict.fromkeys((*old.commits, *new.commits))))


def make_stamp(command: str, seed: int) -> Stamp:
    """The stamp of a measurement that ends now on this machine."""
    environment = collect_environment()
    return Stamp(
        commands=(command,), commits=(_commit(),), seed=seed,
        python=str(environment["python"]).split(" ")[0], torch=str(environment["torch"]),
        numpy=str(environment["numpy"]), platform=str(environment["platform"]),
        processor=_processor(environment["cpu"]),
        instruction_set=str(environment["cpu_capability"]),
        num_cores=int(environment["cpu_count"] or 0), devices=_devices(environment["cuda"]),
        load=os.getloadavg()[0])


def _processor(cpu: Any) -> str:
    known = cpu if isinstance(cpu, dict) else {}
    fields = ("name", "vendor", "family", "model", "stepping")
    return " ".join(f"{name} {known[name]}" for name in fields if name in known) or "unknown"


def _devices(cuda: Any) -> tuple[str, ...]:
    found = cuda.get("devices") if isinstance(cuda, dict) else None
    return tuple(str(d.get("name", d)) if isinstance(d, dict) else str(d) for d in found or ())


def _commit() -> str:
    """The commit of the checkout that this package runs from; ``unknown`` outside of one."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(_PACKAGE), *arguments], capture_output=True,
                              text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=normal", "--", str(_PACKAGE))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def read(path: Path, kind: type[_File]) -> _File:
    """A result file.

    Raises:
        UsageError: if it cannot be read or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no {kind.__name__} of sdc-guard bench: {error}") from error


def write(path: Path, contents: OverheadFile | DetectionFile | CleanFile) -> None:
    """Write a result file under a temporary name, rename it, and renew the README beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n")
    _replace(path.parent / "README.md", _readme(path.parent).encode())


def write_text(path: Path, stamp: Stamp, text: str) -> None:
    """Write a result that is read by people alone, below its stamp, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, f"{_told(stamp)}\n\n{text}".encode())


def _replace(path: Path, contents: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(contents)
    temporary.replace(path)


def _readme(folder: Path) -> str:
    parts = ["# The guard, measured\n\nMade by `sdc-guard bench`; the JSON files beside this page "
             "hold all figures. Intervals are 95 %."]
    if (path := folder / "overhead.json").exists():
        overhead = read(path, OverheadFile)
        parts += ["## Overhead", _told(overhead.stamp),
                  "```\n" + render_overhead(list(overhead.results)) + "\n```"]
    if (path := folder / "detection.json").exists():
        detection = read(path, DetectionFile)
        parts += ["## Detection", _told(detection.stamp),
                  "\n\n".join(render_campaign(c) for c in detection.campaigns)]
    if (path := folder / "clean.json").exists():
        clean = read(path, CleanFile)
        parts += ["## Clean runs", _told(clean.stamp),
                  "\n\n".join(render_clean(r) for r in clean.runs)]
    return "\n\n".join(parts) + "\n"


def _told(stamp: Stamp) -> str:
    devices = f", {', '.join(stamp.devices)}" if stamp.devices else ""
    return "\n".join([
        *(f"- command: `{command}`" for command in stamp.commands),
        f"- commit: {', '.join(stamp.commits)} (`+`: with local changes); seed {stamp.seed}",
        f"- versions: Python {stamp.python}, torch {stamp.torch}, numpy {stamp.numpy}",
        f"- machine: {stamp.platform}, {stamp.processor}, {stamp.num_cores} cores, "
        f"{stamp.instruction_set}{devices}; load {stamp.load:.1f}",
    ])


def render_rate(rate: Rate) -> str:
    """``198 of 200, 99.00 % [96.43, 99.88]``."""
    if rate.interval is None:
        return "none injected"
    i: Interval = rate.interval
    return (f"{rate.detected} of {rate.injected}, {100 * i.value:.3f} % "
            f"[{100 * i.low:.3f}, {100 * i.high:.3f}]")


def render_campaign(campaign: Campaign) -> str:
    """Rates, outcomes, and one line for each fault that was not called corruption."""
    lines = [
        f"{campaign.label}, {campaign.model} faults, seed {campaign.seed}, one thread:",
        f"- called corruption, op named: {render_rate(campaign.corruption)}",
        f"- any verdict, op named: {render_rate(campaign.named)}",
        f"- found in step: {_counts(campaign.found_in_step)}, of at most "
        f"{campaign.steps_repeated if campaign.model == 'repeated' else 1}",
        f"- outcomes: {_counts(campaign.outcomes)}; causes of findings: {_counts(campaign.causes)}",
        f"- false alarms in clean steps between the faults: {len(campaign.false_alarms)}",
    ]
    for trial in campaign.not_detected:
        lines.append(f"- fault {trial.index}: {trial.outcome}, {trial.op}{_place(trial)}: "
                     f"{trial.why}")
        lines += [f"    - site: {site}" for site in trial.sites]
    return "\n".join(lines)


def _place(trial: Trial) -> str:
    fault = trial.fault
    if fault is None:
        return ""
    size = "no finite size" if fault.size_ulps is None else f"{fault.size_ulps:.4g} ulp"
    return (f", bit {fault.bit} of result {fault.output} {list(fault.shape)}, "
            f"{fault.before.repr} -> {fault.after.repr} ({size})")


def render_clean(run: CleanRun) -> str:
    """Findings, checks and the interval."""
    high = run.alarms_per_check.high
    lines = [
        f"{run.label}, seed {run.seed}, {run.num_steps} guarded steps:",
        f"- findings of any verdict: {run.num_findings}",
        f"- checks: {_counts(run.checks_by_witness)}; false alarms per check at most {high:.2g}",
        f"- coverage: {100 * run.call_share:.2f} % of calls, {100 * run.flop_share:.3f} % of FLOPs",
        f"- guard errors: {run.guard_errors}",
        f"- relations refused here: {', '.join(run.refused_relations) or 'none'}",
    ]
    return "\n".join(lines + [f"- {message}" for message in run.messages])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
