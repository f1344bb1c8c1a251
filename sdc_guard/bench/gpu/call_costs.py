"""What the kernels of one training step cost, call by call, on that step's own operands.

A first step counts the calls of each site: op, shapes, strides and dtypes.  In a second one the
first call of each site is checked again and again on the spot, so that nothing has to be kept.
Then come calls that a GPT does not make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.gpu import gpt
from sdc_guard.bench.gpu.asked_ops import is_asked
from sdc_guard.bench.gpu.clock import Clock
from sdc_guard.bench.gpu.figures import CallCost
from sdc_guard.bench.gpu.job import Expected, Setting, Telling
from sdc_guard.bench.gpu.more_calls import more_calls
from sdc_guard.bench.gpu.notes import BenchNotes
from sdc_guard.bench.gpu.product import NoKernel
from sdc_guard.calls import BoundCall, form_of, without
from sdc_guard.intervals import median
from sdc_guard.observe.classify import Entry, classify
from sdc_guard.ops import OpSpec, all_specs, copied, lookup

Held = tuple[Tensor, ...]
Look = Callable[[str, OpSpec, BoundCall, Held], None]


def expected(setting: Setting) -> tuple[str, ...]:
    """Only a step tells."""
    return ()


def measure(telling: Telling) -> None:
    """Tells one :class:`CallCost` per site."""
    setting = telling.setting
    training = gpt.build(setting.sizes.gpt, device=setting.device, seed=setting.seed)
    training.step()
    counts: Counter[str] = Counter()
    with EachCall(lambda name, *_: counts.update((name,))):
        training.step()
    if not counts:
        raise RuntimeError("the step makes no call of a matrix product or a reduction")
    telling.send(Expected(tuple(counts)))
    clock = Clock(setting.device)
    seen: set[str] = set()

    def look(name: str, spec: OpSpec, call: BoundCall, held: Held) -> None:
        if name in seen:
            return
        seen.add(name)
        # Checks compute in the formats that they choose, also within the step's autocast.
        with torch.autocast(setting.device, enabled=False):
            telling.attempt(name, partial(cost_of, telling, clock, spec, call, held, counts[name]))

    with EachCall(look):
        training.step()
    del training
    met = {name.partition(" ")[0] for name in counts}
    met |= _measure_more(telling, clock, seen)
    for spec in all_specs():
        if spec.kernel is not None and not any(_is_of(name, spec) for name in met):
            telling.attempt(spec.packet, _no_call)


def _measure_more(telling: Telling, clock: Clock, seen: set[str]) -> set[str]:
    met = set()
    for make in more_calls(telling.setting):
        try:
            func, args = make()
            form = form_of(func)
            call = BoundCall(form, form.bind(args, {}))
            held = call.run()
        except Exception as error:  # one call that this machine cannot make costs no other
            telling.fails(make.__name__, error)
            continue
        spec, name = lookup(form.packet), site_name(call)
        met.add(form.name)
        if spec is not None and name not in seen:
            telling.attempt(name, partial(cost_of, telling, clock, spec, call, held, 0))
    return met


def _no_call() -> CallCost:
    raise NoKernel("no call of this op is in the measured step or among the further ones")


def _is_of(overload: str, spec: OpSpec) -> bool:
    return overload.rpartition(".")[0].removesuffix("_") == spec.packet


class EachCall(TorchDispatchMode):
    """Hands each call that a kernel checks, or that is a matrix product or a reduction, to
    ``look``, with its results, under the name of its site."""

    def __init__(self, look: Look) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._look = look
        self._entries: dict[Any, Entry] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        entry = self._entries.get(func)
        if entry is None:
            entry = self._entries[func] = classify(func)
        form, spec = entry.form, entry.spec
        if form is None or spec is None or (spec.kernel is None and not is_asked(spec)):
            return func(*args, **kwargs)
        live = form.bind(args, kwargs)
        call = BoundCall(form, live)
        if form.overwrites:
            call = copied(call)
        returned = func(*args, **kwargs)
        held = without(call.results(live, returned), spec.scratch)
        self._look(site_name(call), spec, call, held)
        return returned


def site_name(call: BoundCall) -> str:
    """``aten.mm.default bf16[8192, 1024] bf16[1024, 4096]'``; the mark is for operands that are not
    contiguous."""
    parts = [_described(tensor) for _, tensor in call.tensors()]
    others = [f"{name}={value}" for name, value in zip(call.form.argument_names, call.args,
                                                      strict=True)
              if isinstance(value, (int, list, tuple)) and not isinstance(value, bool)
              and name in ("dim", "keepdim") and value != []]
    return " ".join((call.form.name, *parts, *others))


def _described(tensor: Tensor) -> str:
    short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
    dtype = str(tensor.dtype).removeprefix("torch.")
    mark = "" if tensor.is_contiguous() else f"/{list(tensor.stride())}"
    return f"{short.get(dtype, dtype)}{list(tensor.shape)}{mark}"


def cost_of(
    telling: Telling, clock: Clock, spec: OpSpec, call: BoundCall, held: Held, calls_per_step: int
) -> CallCost:
    """Op and check in turn, with nothing remembered from launch to launch.

    Raises:
        NoKernel: if the op has none, or it does not take this call.
    """
    run = None
    if spec.kernel is not None and held and held[0] is not None:
        run = spec.kernel(call, held)
    if run is None:
        raise NoKernel("no kernel takes this call" if spec.kernel else "the op has no kernel")
    first = next(t for t in held if t is not None)
    notes = BenchNotes(first, seed=telling.setting.seed, remembers=False)
    can_repeat = not call.form.overwrites
    op = partial(call.form.call, call.args) if can_repeat else lambda: None
    pieces = (op, lambda: notes.launch(run, call, held))
    clock.times_ms(pieces)  # compiles
    rounds = [clock.times_ms(pieces) for _ in telling.rounds(telling.setting.sizes.call_rounds)]
    name, _, operands = site_name(call).partition(" ")
    return CallCost(
        op=name, operands=operands, calls_per_step=calls_per_step, num_rounds=len(rounds),
        op_ms=median([spent_ms[0] for spent_ms, _ in rounds]) if can_repeat else None,
        check_ms=median([spent_ms[1] for spent_ms, _ in rounds]),
        host_ms=median([host_ms[1] for _, host_ms in rounds]),
        num_bytes=num_bytes(call, held), verdicts=notes.verdicts())


def num_bytes(call: BoundCall, held: Held) -> int:
    """Each element of each operand and result once; an expanded dimension has one."""
    total = 0
    for tensor in (*(t for _, t in call.tensors()), *(t for t in held if t is not None)):
        num_elements = 1
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            num_elements *= size if stride or not size else 1
        total += num_elements * tensor.element_size()
    return total
