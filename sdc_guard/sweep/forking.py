"""The process that workers are forked from.  It loads torch while the sweep's own process does: a
short sweep has no seconds to lose.  Nothing heavy is imported here.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver

PRELOADED = ("sdc_guard.sweep.worker", "sdc_guard.sweep.families")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Under these OpenMP binds a process to one core as soon as torch is loaded: this one would know of
no other core, and workers are pinned without."""
MAX_FILES = 65536
CONTEXT = multiprocessing.get_context("forkserver")


def begin() -> None:
    """Start it, unless it is there.  It ends with this process, however that ends."""
    _allow_files()
    for name in BINDING:
        os.environ.pop(name, None)
    with _one_thread():
        CONTEXT.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()


def _allow_files() -> None:
    """Each worker needs three open files here, and many systems allow 1024 unless one asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _one_thread() -> Iterator[None]:
    """It must have no pools of threads: it takes its variables from here when it is started."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
