"""Candidates of a reduction: trials that are simpler in one respect, plainest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.hunt.materialise import dense
from sdc_guard.hunt.trial import (
    Alias,
    Argument,
    Fill,
    Items,
    Layout,
    Literal,
    Modes,
    Operand,
    Scalar,
    Trial,
    Within,
    num_elements,
)

MAX_LITERAL_ELEMENTS = 4096
"""Operands of more elements keep their recipe: they are simplified as a whole only."""
_replace = msgspec.structs.replace


def simpler_modes(trial: Trial) -> Iterator[Trial]:
    """All modes plain, then one of them; no backward pass."""
    plain = Modes()
    yield _replace(trial, modes=plain)
    for name in Modes.__struct_fields__:
        yield _replace(trial, modes=_replace(trial.modes, **{name: getattr(plain, name)}))
    if trial.backward:
        yield _replace(trial, backward=False)


def simpler_layouts(trial: Trial) -> Iterator[Trial]:
    """All operands contiguous, then each; then each with the smallest number of its layout."""
    free = [i for i, o in enumerate(trial.operands()) if o.free and o.layout != Layout()]
    if len(free) > 1:
        yield _with_operands(trial, {i: {"layout": Layout()} for i in free})
    for i in free:
        yield _with_operands(trial, {i: {"layout": Layout()}})
    for i, operand in enumerate(trial.operands()):
        if operand.free and operand.layout.detail:
            plain = _replace(operand.layout, detail=0)
            yield _with_operands(trial, {i: {"layout": plain}})


def simpler_calls(trial: Trial) -> Iterator[Trial]:
    """Without one keyword; with a plain number in place of another.

    A keyword that an alias counts across cannot go.
    """
    for name, value in trial.kwargs.items():
        if isinstance(value, (Scalar, Alias)) or list(trial.kwargs)[-1] == name:
            kept = {k: v for k, v in trial.kwargs.items() if k != name}
            yield _replace(trial, kwargs=kept)
    for i, value in enumerate(trial.args):
        for plain in _plainer(value):
            yield _replace(trial, args=(*trial.args[:i], plain, *trial.args[i + 1:]))
    for name, value in trial.kwargs.items():
        for plain in _plainer(value):
            yield _replace(trial, kwargs={**trial.kwargs, name: plain})


def _plainer(argument: Argument) -> Iterator[Argument]:
    if isinstance(argument, Scalar) and argument.kind == "float":
        value = float.fromhex(argument.text)
        for plain in (1.0, 2.0, 0.5):
            if abs(plain - 1) < abs(value - 1) and value > 0:
                yield Scalar(kind="float", text=plain.hex())


def simpler_sizes(trial: Trial) -> Iterator[Trial]:
    """A size replaced wherever it stands, by smaller ones; integers equal to it follow."""
    operands = list(trial.operands())
    if any(not (o.free and o.resizable) for o in operands):
        return
    for size in sorted({s for o in operands for s in o.shape if s > 1}, reverse=True):
        smaller = sorted({1, 2, 3, 4, size // 4, size // 2, size - size // 4, size - 1})
        for new in smaller:
            if 0 < new < size:
                yield _resized(trial, size, new)


def _resized(trial: Trial, size: int, new: int) -> Trial:
    def cut(place: int, operand: Operand) -> Operand:
        shape = tuple(new if s == size else s for s in operand.shape)
        if shape == operand.shape:
            return operand
        values = operand.values
        if isinstance(values, Literal):
            whole = _elements(operand).reshape(operand.shape)
            values = Literal.of(np.ascontiguousarray(
                whole[tuple(slice(0, s) for s in shape)]).tobytes())
        return _replace(operand, shape=shape, values=values)

    def follow(argument: Argument) -> Argument:
        if isinstance(argument, Scalar) and argument.kind == "int" and argument.text == str(size):
            return Scalar(kind="int", text=str(new))
        if isinstance(argument, Items):
            return _replace(argument, items=tuple(map(follow, argument.items)))
        return argument

    trial = trial.mapped(cut)
    return _replace(trial, args=tuple(map(follow, trial.args)),
                    kwargs={k: follow(v) for k, v in trial.kwargs.items()})


def with_literals(trial: Trial) -> Trial:
    """The same bits, written out where they are few."""
    def spelled(place: int, operand: Operand) -> Operand:
        is_few = num_elements(operand.shape) <= MAX_LITERAL_ELEMENTS
        if isinstance(operand.values, (Fill, Within)) and is_few:
            return _replace(operand, values=Literal.of(_elements(operand).tobytes()))
        return operand

    return trial.mapped(spelled)


def simpler_values(trial: Trial) -> Iterator[Trial]:
    """Operands all ones or zeros; halves, quarters, ... of one; then single elements."""
    for i, operand in enumerate(trial.operands()):
        size = num_elements(operand.shape)
        if not operand.free or not size:
            continue
        if not isinstance(operand.values, Literal) and size > MAX_LITERAL_ELEMENTS:
            yield from _simpler_recipes(trial, i, operand)
            continue
        raw = _elements(operand)
        numbers = _numbers(operand, raw)
        if numbers is None:
            continue
        for pattern in _patterns(numbers):
            if not np.array_equal(pattern, numbers, equal_nan=True):
                yield _with_numbers(trial, i, operand, raw, slice(None), pattern)
        length = size
        while length > 1:
            length = -(-length // 2)
            for start in range(0, size, length):
                part = slice(start, start + length)
                for value in _allowed(numbers, (0.0, 1.0)):
                    if np.any(numbers[part] != value):
                        yield _with_numbers(trial, i, operand, raw, part, value)
        for place in range(size if size <= 64 else 0):
            for value in _rounder(numbers, complex(numbers[place])):
                yield _with_numbers(trial, i, operand, raw, slice(place, place + 1), value)


def _simpler_recipes(trial: Trial, i: int, operand: Operand) -> Iterator[Trial]:
    """A large operand by a recipe that a script can write down; of one that is fitted to a trace
    only the recipe inside changes, so that it stays as it was seen there."""
    for kind in ("constant", "alternating", "integers"):
        plain: Fill | Within = Fill(kind=kind)
        if isinstance(operand.values, Within):
            plain = _replace(operand.values, fill=plain)
        if operand.values == plain:
            return
        yield _with_operands(trial, {i: {"values": plain}})


def _patterns(numbers: Any) -> Iterator[Any]:
    ramp = np.arange(numbers.size) % 7 + 1
    for pattern in (np.ones(numbers.size), np.zeros(numbers.size), ramp):
        if _allowed(numbers, tuple(pattern[:8])) == tuple(pattern[:8]):
            yield pattern.astype(numbers.dtype)


def _allowed(numbers: Any, values: tuple[float, ...]) -> tuple[float, ...]:
    """Those of the values that keep the sign, and the unit interval, that all numbers share."""
    real = np.concatenate([np.real(numbers), np.imag(numbers)]) if np.iscomplexobj(
        numbers) else numbers
    with np.errstate(invalid="ignore"):
        low, high = np.min(real, initial=np.inf), np.max(real, initial=-np.inf)
    if low > 0:
        values = tuple(v for v in values if v > 0)
    elif low >= 0:
        values = tuple(v for v in values if v >= 0)
    if low >= 0 and high <= 1:
        values = tuple(v for v in values if v <= 1)
    return values


def _rounder(numbers: Any, value: complex) -> Iterator[float]:
    """Plainer numbers near one: nothing, units, integers, fewer bits."""
    if value.imag or not np.isfinite(value.real):
        return
    x = value.real
    power = 2.0 ** np.floor(np.log2(abs(x))) if x else 0.0
    fewer = [float(np.round(x / power * 2.0**b) / 2.0**b * power) for b in (2, 6)] if x else []
    offered = (0.0, 1.0, -1.0, float(np.copysign(min(abs(np.round(x)), 2.0**24), x)),
               float(np.copysign(power, x)), *fewer)
    ranks = {v: r for r, v in reversed(list(enumerate(offered)))}
    for plain in _allowed(numbers, tuple(dict.fromkeys(offered))):
        if plain == x:
            return  # it is as plain as it gets
        if ranks[plain] < 4 or abs(plain) < 2.0**60:
            yield plain


def _elements(operand: Operand) -> Any:
    """The operand's elements as unsigned integers of their bits, flat, in C order."""
    tensor = dense(operand, getattr(torch, operand.dtype))  # alive while its bits are read
    return bits.raw(tensor).reshape(-1).copy()


def _numbers(operand: Operand, raw: Any) -> Any:
    """Their values; None for formats without values."""
    tensor = torch.empty(raw.size, dtype=getattr(torch, operand.dtype))
    bits.raw(tensor)[...] = raw
    return bits.numbers(tensor)


def _with_numbers(
    trial: Trial, i: int, operand: Operand, raw: Any, part: slice, value: Any
) -> Trial:
    """Operand ``i`` with some elements replaced by numbers, rounded to its dtype."""
    changed = raw.copy()
    count = changed[part].size
    dtype = getattr(torch, operand.dtype)
    wanted = np.broadcast_to(np.asarray(value), (count,))
    if not dtype.is_complex:
        wanted = wanted.real
    rounded = torch.from_numpy(np.ascontiguousarray(wanted).copy()).to(dtype)
    changed[part] = bits.raw(rounded).reshape(-1)
    return _with_operands(trial, {i: {"values": Literal.of(changed.tobytes())}})


def _with_operands(trial: Trial, changes: dict[int, dict[str, Any]]) -> Trial:
    return trial.mapped(lambda i, o: _replace(o, **changes[i]) if i in changes else o)
