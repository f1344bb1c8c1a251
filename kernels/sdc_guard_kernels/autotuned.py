"""Autotuned kernels that a function launches, and how to make it launch one configuration of them.

``triton.autotune`` picks the fastest configuration for each key, on each machine anew, so a wrong
one may lie unused here and be the one in use elsewhere.  :func:`autotuners` finds the tuners that a
launcher names, :func:`forced` has one of them take a given configuration, with the tuner left as it
was afterwards, its cache included.

A configuration that the kernel's own pruning leaves out for the arguments at hand is not launched
(:class:`NotUsed`); nor is one that does not fit the device, which the tuner itself would skip.
Triton's interpreter does not choose between configurations: with more than one it asks for a
benchmark, which needs a device, and raises RuntimeError.  A forced one runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime.autotuner import Autotuner, Config
from triton.runtime.errors import OutOfResources, PTXASError

MAX_DEPTH = 4
"""So many calls below the launcher a kernel is still found."""
UNUSABLE: tuple[type[Exception], ...] = (
    OutOfResources, CompileTimeAssertionFailure, PTXASError)
"""What the tuner itself takes as: this configuration cannot be used."""


class NotUsed(Exception):
    """The kernel's own pruning leaves this configuration out for these arguments."""


def autotuners(launcher: Callable[..., Any]) -> list[Autotuner]:
    """The tuners with more than one configuration that a function names: in its globals and
    closure, in modules it names, and in the Python functions that it calls, in order."""
    found: dict[int, Autotuner] = {}
    _search(launcher, found, set(), MAX_DEPTH)
    return [t for t in found.values() if len(t.configs) > 1]


def _search(thing: Any, found: dict[int, Autotuner], seen: set[int], depth: int) -> None:
    if id(thing) in seen or depth < 0:
        return
    seen.add(id(thing))
    if isinstance(thing, Autotuner):
        found[id(thing)] = thing
    if isinstance(thing, FunctionType):
        names = set(_names(thing.__code__))
        for name in sorted(names & thing.__globals__.keys()):
            value = thing.__globals__[name]
            if isinstance(value, ModuleType):
                for attribute in sorted(names & vars(value).keys()):
                    _search(vars(value)[attribute], found, seen, depth - 1)
            else:
                _search(value, found, seen, depth - 1)
        for cell in thing.__closure__ or ():
            try:
                _search(cell.cell_contents, found, seen, depth - 1)
            except ValueError:  # a name that is not bound yet
                continue
        _search(getattr(thing, "__wrapped__", None), found, seen, depth)
    elif hasattr(thing, "fn") and hasattr(thing, "run"):  # heuristics around a tuner
        _search(thing.fn, found, seen, depth)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def configurations(tuner: Autotuner) -> list[tuple[str, Config]]:
    """Each configuration with a name: ``kernel[BLOCK: 64, num_warps: 4, ...]``."""
    return [(f"{tuner.base_fn.__name__}[{_said(config)}]", config) for config in tuner.configs]


def _said(config: Config) -> str:
    return ", ".join(part for part in str(config).split(", ") if not part.endswith(": None"))


def variants(launcher: Callable[..., Any]) -> list[tuple[str, Callable[[], Any]]]:
    """Every configuration of every tuner of a launcher: its name, and what forces it."""
    return [(name, partial(forced, tuner, config)) for tuner in autotuners(launcher)
            for name, config in configurations(tuner)]


@contextmanager
def forced(tuner: Autotuner, config: Config) -> Iterator[None]:
    """Within this, every launch of the tuned kernel, on any thread, takes ``config``; of several,
    the innermost one.

    A launch raises :class:`NotUsed` where the kernel's own pruning leaves ``config`` out.
    """
    configs, cache = tuner.configs, dict(tuner.cache)
    had_best, best = hasattr(tuner, "best_config"), getattr(tuner, "best_config", None)
    outer = vars(tuner).get("run")

    def run(*args: Any, **kwargs: Any) -> Any:
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        tuner.configs = configs
        try:
            if config not in tuner.prune_configs(kwargs):
                raise NotUsed(str(config))
            tuner.configs = [config]
            return type(tuner).run(tuner, *args, **kwargs)
        except UNUSABLE as error:
            raise NotUsed(f"{config}: {error}") from error
        finally:
            tuner.configs, tuner.nargs = configs, None

    tuner.run = run
    try:
        yield
    finally:
        if outer is None:
            del tuner.run
        else:
            tuner.run = outer
        tuner.cache.clear()
        tuner.cache.update(cache)
        if had_best:
            tuner.best_config = best
        elif hasattr(tuner, "best_config"):
            del tuner.best_config
