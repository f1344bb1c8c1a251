"""A hunt as it is asked for, to its report."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import msgspec
import torch

from sdc_guard.document.schema import Report
from sdc_guard.document.text import counted
from sdc_guard.errors import UsageError
from sdc_guard.hunt.catalogue import is_kept
from sdc_guard.hunt.corpus import Corpus, Key, continued, of_hunt
from sdc_guard.hunt.document import document
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.hunting import Hunt, Plan
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.loading import Templates, load_templates
from sdc_guard.hunt.losses import ORACLE
from sdc_guard.hunt.messages import Options
from sdc_guard.hunt.oracles._registry import chosen
from sdc_guard.hunt.templates import Template

MEMORY_SETS, MEMORY_BYTES = 16, 2 << 30
"""What a worker may allocate: so many working sets of a trial, and this besides."""
SECONDS_BETWEEN_SAVES = 15.0
GO_ON, RESUME, FRESH = "go on", "resume", "fresh"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says.  ``limit_s`` or ``examples`` ends the hunt.

    ``start`` is what becomes of an earlier hunt in the corpus: ``go on`` makes its divergences
    again and then rounds that it has not made (with ``examples``: the first ones again),
    ``resume`` ends that very hunt, ``fresh`` takes no notice of it.
    """

    command: str
    seed: int = 0
    limit_s: float | None = None
    examples: int | None = None
    ops: tuple[str, ...] = ()
    traces: tuple[Path, ...] = ()
    oracles: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    num_workers: int = 1
    num_cores: int = 1
    max_bytes: int = 1 << 28
    hang_s: float = 120.0
    is_huge: bool = False
    devices: tuple[str, ...] = ("cpu",)
    corpus: Path | None = None
    start: str = GO_ON
    bundles: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """A hunt's report, not judged yet, and what stands behind its findings."""

    report: Report
    found: tuple[FoundDivergence, ...]


def hunted(
    asked: Asked, *, tick: Callable[[Hunt], None] = lambda hunt: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Hunt, and report; ``tell`` is given what takes long before that.

    After Ctrl-C there is a report of what was done until then, as not complete.

    Raises:
        UsageError: for names that mean nothing here, and for a corpus that cannot be used.
    """
    for name in asked.imports:
        _import(name)
    oracles = tuple(o.name for o in chosen(asked.oracles))
    with contextlib.ExitStack() as stack:
        corpus = None
        if asked.corpus is not None:
            corpus = stack.enter_context(Corpus(asked.corpus).held())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sdc-hunt-")))
        cache = cache_folder() if corpus is None else corpus.folder / "catalogue"
        if not asked.traces and not is_kept(cache):
            tell("reading torch's operator catalogue, once for all hunts: about half a minute of "
                 "one core, which is no part of the hunt's time")
        templates = load_templates(cache, ops=asked.ops, traces=asked.traces)
        key = Key(seed=asked.seed, torch=str(torch.__version__), oracles=oracles,
                  max_bytes=asked.max_bytes)
        ledger, replays = _ledger(asked, corpus, key, templates)
        saved_s = time.monotonic()

        def save(hunt: Hunt) -> None:
            nonlocal saved_s
            tick(hunt)
            if corpus is not None and time.monotonic() - saved_s > SECONDS_BETWEEN_SAVES:
                corpus.try_save(lambda: corpus.save(key, ledger, is_finished=False))
                saved_s = time.monotonic()

        calls = on_devices(templates.by_target, asked.devices)
        hunt = Hunt(_plan(asked, oracles, ledger), calls, ledger, folder, tick=save)
        if asked.start == RESUME:
            hunt.write_anew(tuple(ledger.found))
        hunt.replay(iter(replays))
        with contextlib.suppress(KeyboardInterrupt):
            hunt.run()
        if corpus is not None:
            corpus.try_save(lambda: corpus.save(key, ledger, is_finished=hunt.is_complete))
        report = document(
            ledger, seed=asked.seed, command=asked.command, targets=templates.by_target,
            is_complete=hunt.is_complete, notes=_notes(corpus, templates, hunt))
    return Outcome(report, tuple(ledger.found.values()))


def on_devices(
    by_target: Mapping[str, tuple[Template, ...]], devices: tuple[str, ...]
) -> dict[str, tuple[Template, ...]]:
    """Each call on each device.

    Raises:
        UsageError: for a device that torch cannot use here.
    """
    for device in devices:
        try:
            torch.empty(1, device=device)
        except Exception as error:  # each backend has its own
            raise UsageError(f"device {device!r} cannot be used: {error}") from error
    return {
        target: tuple(
            msgspec.structs.replace(
                t, trial=msgspec.structs.replace(t.trial, device=device))
            for device in devices for t in templates)
        for target, templates in by_target.items()}


def _import(name: str) -> None:
    try:
        import_module(name)
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"--import {name}: {type(error).__name__}: {error}") from error


def _plan(asked: Asked, oracles: tuple[str, ...], ledger: Ledger) -> Plan:
    """The budget of a hunt that is resumed is what it has not used."""
    limit_s = None if asked.limit_s is None else max(0.0, asked.limit_s - ledger.elapsed_s)
    return Plan(
        seed=asked.seed, limit_s=limit_s, examples=asked.examples,
        num_workers=asked.num_workers, hang_s=asked.hang_s,
        databases=None if asked.corpus is None else asked.corpus / "examples",
        options=Options(
            oracles=oracles, imports=asked.imports, typed=asked.ops, max_bytes=asked.max_bytes,
            max_threads=asked.num_cores, is_huge=asked.is_huge,
            memory_bytes=MEMORY_SETS * asked.max_bytes + MEMORY_BYTES,
            bundles="" if asked.bundles is None else str(asked.bundles)))


def _ledger(
    asked: Asked, corpus: Corpus | None, key: Key, templates: Templates
) -> tuple[Ledger, tuple[str, ...]]:
    """The ledger to write to, and the kinds of divergence to make again first."""
    new = Ledger(start_utc=datetime.now(UTC).isoformat(timespec="seconds"))
    if corpus is None or asked.start == FRESH:
        if asked.start == RESUME:
            raise UsageError("--resume needs the folder of the hunt to go on with: --corpus DIR")
        return new, ()
    state = corpus.load_state(key)
    if asked.start == RESUME:
        if state is None or state[1]:
            raise UsageError(
                f"{corpus.folder} holds no unfinished hunt with seed {key.seed}, these oracles, "
                "this --max-bytes and this torch; leave --resume out to begin one"
                + "".join(f"\n  {note}" for note in corpus.notes))
        state[0].found = of_hunt(state[0].found, templates.by_target, (*key.oracles, ORACLE))
        return state[0], ()
    if state is not None and asked.examples is None:
        new.targets = continued(state[0])
    new.found = of_hunt(corpus.load_found(), templates.by_target, (*key.oracles, ORACLE))
    return new, tuple(new.found)


def _notes(corpus: Corpus | None, templates: Templates, hunt: Hunt) -> Iterator[str]:
    if corpus is not None:
        yield from corpus.notes
    yield f"catalogue: {templates.catalogue}"
    for reason, count in sorted(templates.reasons().items()):
        yield f"{counted(count, 'entry', 'entries')} of the catalogue left out: {reason}"
    if hunt.num_to_reduce:
        yield (f"{hunt.num_to_reduce} divergences were not made smaller: no time was left, and "
               "their ids may be others in a longer hunt")


def cache_folder() -> Path:
    """Where what was read of torch's catalogue is kept: of this user, for all hunts."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "sdc_guard" / "catalogue"
