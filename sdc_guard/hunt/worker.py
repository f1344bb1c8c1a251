"""A process that searches: it does what it is told, one round after the other, and may die.

What runs here is under test: an operator can end the process, hang, or take all memory.  So every
trial is in the slot before it is made, and nothing that matters is kept here alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import importlib
import os
import resource
import signal
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import hypothesis
import msgspec
import torch
from hypothesis.database import DirectoryBasedExampleDatabase

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.findings import Finder
from sdc_guard.hunt.losses import without_modes
from sdc_guard.hunt.messages import (
    Again,
    Done,
    Failed,
    Found,
    MadeAgain,
    Message,
    Options,
    Reduce,
    Round,
    packed,
    unpacked,
)
from sdc_guard.hunt.oracles._registry import Oracle, Session, chosen
from sdc_guard.hunt.schedule import FIRST_LONG
from sdc_guard.hunt.search import examine, search
from sdc_guard.hunt.slot import Slot
from sdc_guard.hunt.targets import allow
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Trial, decode, encode

DEAR_SHARE = 0.04
"""An oracle that looks at fewer trials than that takes seconds for one."""
MAX_TRIES = 300
"""Trials of a reduction."""
PR_SET_PDEATHSIG = 1
PARENT_TICK_S = 1.0
MAX_TEMPLATE_FILES = 64
"""Targets whose templates a worker holds."""

_TEMPLATES = msgspec.json.Decoder(tuple[Template, ...])


def run(pipe: Connection, options: bytes) -> None:
    """The life of a worker, until the pipe closes.  Started in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    told = unpacked(options)
    assert isinstance(told, Options)
    _set_apart(told)
    worker = Worker(pipe, told)
    try:
        while True:
            task = unpacked(pipe.recv_bytes())
            if isinstance(task, Round):
                worker.search(task)
            elif isinstance(task, Again):
                worker.again(task)
            elif isinstance(task, Reduce):
                worker.reduce(task)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the hunt has ended


def _set_apart(options: Options) -> None:
    """A process group of its own, its output in the log, its memory limited, and no longer than its
    parent."""
    if options.parent:
        _end_with(options.parent)
    if hasattr(os, "setsid"):
        os.setsid()
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable(file=log)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, 2 * (_data_bytes() + options.memory_bytes,))


def _end_with(parent: int) -> None:
    """End when the parent has, whatever this process does then; the end of the pipe does not tell,
    because what was started meanwhile may hold its other end."""
    with contextlib.suppress(OSError, AttributeError):  # of Linux; at once, in the midst of a call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_TICK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _data_bytes() -> int:
    """Private memory of this process, as RLIMIT_DATA counts it."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 1 << 32


class Worker:
    """Searches and repeats, and says what came of it."""

    def __init__(self, pipe: Connection, options: Options) -> None:
        self._pipe, self._options = pipe, options
        self._slot = Slot(Path(options.slot))
        for name in options.imports:
            importlib.import_module(name)
        for name in options.typed:
            allow(name)
        self._errors: Counter[str] = Counter()
        self._oracles = tuple(self._guarded(o) for o in chosen(options.oracles))
        self._session = Session(max_bytes=options.max_bytes, max_threads=options.max_threads)
        self._templates: dict[str, tuple[Template, ...]] = {}
        self._taken: set[str] = set()
        self._is_hurt = False

    def search(self, task: Round) -> None:
        """One round of one target."""
        session, met = self._session, Counter[str]()
        session.checked.clear()
        session.not_judged.clear()
        self._errors.clear()
        skip, known = frozenset(task.skip), self._taken.union(task.known)
        latest = b""

        def on_trial(trial: Trial) -> None:
            nonlocal latest
            if skip and without_modes(trial) in skip:
                hypothesis.reject()
            latest = self._put(trial)

        def on_divergence(trial: Trial, divergence: Divergence) -> None:
            kind = divergence.fingerprint
            met[kind] += 1
            if kind not in known:
                known.add(kind)
                self._taken.add(kind)
                self._send(Found(found=self._finder(is_quick=True).take(trial, divergence)))

        limit_s = float("inf") if task.limit_s is None else task.limit_s
        try:
            tally = search(
                session, self._oracles_of(task.number), self._templates_of(task.templates),
                seed=seed_of(task.seed, task.target, task.number), examples=task.examples,
                on_divergence=on_divergence, on_trial=on_trial,
                deadline_s=time.monotonic() + limit_s, huge=self._options.is_huge,
                database=DirectoryBasedExampleDatabase(task.database) if task.database else None)
        except Exception as error:
            digest = without_modes(decode(latest)) if latest else ""
            self._send(Failed(error=_words(error), digest=digest, is_hurt=self._is_hurt))
            return
        finally:
            self._slot.put(b"")
        self._send(Done(
            trials=tally.trials, refused=tally.refused, elapsed_s=tally.elapsed_s,
            checked=tuple((*key, n) for key, n in session.checked.items()),
            not_judged=tuple((*key, n) for key, n in session.not_judged.items()),
            met=dict(met), errors=dict(self._errors), remarks=dict(session.remarks),
            is_whole=tally.elapsed_s < limit_s, is_hurt=self._is_hurt))

    def _oracles_of(self, number: int) -> tuple[Oracle, ...]:
        """Dear ones take part from the first long round on, so that a short hunt meets all
        operators; unless nothing else was asked for."""
        cheap = tuple(o for o in self._oracles if o.share >= DEAR_SHARE)
        return cheap if cheap and number < FIRST_LONG else self._oracles

    def again(self, task: Again) -> None:
        """One trial, ``times`` times."""
        self._errors.clear()
        wrong = tried = 0
        try:
            trial = decode(task.trial)
            for _ in range(task.times):
                self._put(trial)
                tried += 1
                kinds = {d.fingerprint for d in examine(self._session, self._oracles, trial)}
                wrong += task.kind in kinds
        except Exception as error:
            self._send(MadeAgain(wrong=wrong, tried=tried, error=_words(error),
                                 is_hurt=self._is_hurt))
            return
        finally:
            self._slot.put(b"")
        self._send(MadeAgain(wrong=wrong, tried=tried, error=next(iter(self._errors), ""),
                             is_hurt=self._is_hurt))

    def reduce(self, task: Reduce) -> None:
        """Write up the smallest trial that still gives the divergence, if it comes again."""
        wrong = 0
        try:
            oracle = next(o for o in self._oracles if o.name == task.oracle)
            trial = decode(task.trial)
            self._put(trial)
            self._session.begin()
            for divergence in oracle.check(self._session, trial, execute(trial)):
                if divergence.fingerprint == task.kind:
                    wrong = 1
                    bundles = Path(self._options.bundles) if self._options.bundles else None
                    finder = self._finder(bundles=bundles, is_small=bool(task.drawn),
                                          reduce_s=task.limit_s)
                    found = finder.take(trial, divergence)
                    if task.drawn:
                        found = msgspec.structs.replace(
                            found, drawn=decode(task.drawn), seen_as=task.seen_as)
                    self._send(Found(found=found, is_reduced=True))
                    break
        except Exception as error:
            self._send(MadeAgain(wrong=wrong, tried=1, error=_words(error), is_hurt=self._is_hurt))
            return
        finally:
            self._slot.put(b"")
        self._send(MadeAgain(wrong=wrong, tried=1, is_hurt=self._is_hurt))

    def _finder(
        self, *, is_quick: bool = False, is_small: bool = False, bundles: Path | None = None,
        reduce_s: float = 15.0,
    ) -> Finder:
        """A quick one makes a divergence again and leaves it as it is; what is small already is
        written up as it is."""
        session = Session(max_bytes=self._options.max_bytes, max_threads=self._options.max_threads)

        def on_trial(trial: Trial) -> None:
            self._put(trial)

        return Finder(self._oracles, bundles=bundles, session=session,
                      max_tries=0 if is_quick or is_small else MAX_TRIES, reduce_s=reduce_s,
                      runs_scripts=not is_quick,
                      on_trial=on_trial)

    def _put(self, trial: Trial) -> bytes:
        text = encode(trial)
        self._slot.put(text)
        return text

    def _send(self, message: Message) -> None:
        self._pipe.send_bytes(packed(message))

    def _templates_of(self, file: str) -> tuple[Template, ...]:
        known = self._templates.get(file)
        if known is None:
            if len(self._templates) >= MAX_TEMPLATE_FILES:
                self._templates.clear()
            known = self._templates[file] = _TEMPLATES.decode(Path(file).read_bytes())
        return known

    def _guarded(self, oracle: Oracle) -> Oracle:
        """The oracle, a failure of which costs its word on one trial and is counted; what it says
        of memory is noted."""

        def check(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
            self._slot.beat()
            try:
                for divergence in oracle.check(session, trial, base):
                    self._is_hurt |= divergence.may_hurt
                    yield divergence
            except Exception as error:
                self._errors[f"oracle {oracle.name} on {trial.target}: {_words(error)}"] += 1

        return dataclasses.replace(oracle, check=check)


def seed_of(seed: int, target: str, number: int) -> int:
    """The seed of a round: of these three and nothing else."""
    return zlib.crc32(f"{seed} {target} {number}".encode())


def _words(error: BaseException) -> str:
    """Kind, message and the last place in our own files."""
    places = [f"{Path(f.filename).name}:{f.lineno}"
              for f in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {error} ({', '.join(places[-3:])})"[:500]


