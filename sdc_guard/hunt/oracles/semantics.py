"""What is documented of shapes, dtypes and special values: torch's meta device, and NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.attribute.describe import worst_element
from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import REFUSALS, Execution, under
from sdc_guard.hunt.materialise import materialise
from sdc_guard.hunt.oracles._compare import plain
from sdc_guard.hunt.oracles._numpy import BINARY, UNARY, expected_dtype
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.promises import is_public
from sdc_guard.hunt.trial import Scalar, Trial
from sdc_guard.records import Observation


@oracle("semantics", share=0.15)
def semantics(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Shapes and dtypes against those of torch's meta device; of elementwise functions that NumPy
    has too, the dtype against torch's documented promotion, and what NaN, infinities and zeros
    become against NumPy: a ``semantic difference``."""
    yield from _against_meta(session, trial, base)
    for observation in base.observations:
        yield from _against_numpy(session, base, observation)


def _against_meta(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    packet = packet_of(trial.target)
    names_device = any(isinstance(a, Scalar) and a.kind == "device"
                       for a in (*trial.args, *trial.kwargs.values()))
    if trial.modes.autocast or names_device or trial.backward or not is_public(packet):
        return
    made = materialise(trial)
    known = {id(t): _meta(t) for t in made.tensors}
    try:
        with under(trial.modes):
            returned = made.function(*_on_meta(made.args, known), **_on_meta(made.kwargs, known))
    except REFUSALS:
        session.not_judged["semantics", packet, "not taken on the meta device"] += 1
        return
    results = list(_tensors(returned))
    if any(t.device.type != "meta" for t in results):
        session.not_judged["semantics", packet, "makes no meta tensors"] += 1
        return
    session.checked["semantics", packet] += 1
    sides = ("made", "on the meta device")
    if len(results) != len(base.results):
        yield plain("semantics", base, "semantic difference",
                    f"{len(base.results)} results, {len(results)} on the meta device", sides)
        return
    for place, (got, want) in enumerate(zip(base.results, results, strict=True)):
        if got.shape != want.shape or got.dtype is not want.dtype:
            yield plain("semantics", base, "semantic difference",
                        f"result {place} is {got.dtype}{list(got.shape)}, on the meta device "
                        f"{want.dtype}{list(want.shape)}", sides)


def _meta(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype,
                                   device="meta")
    return made.requires_grad_(tensor.requires_grad)


def _on_meta(value: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return known[id(value)]
    if isinstance(value, dict):
        return {k: _on_meta(v, known) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        made = [_on_meta(v, known) for v in value]
        return tuple(made) if isinstance(value, tuple) else made
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _against_numpy(
    session: Session, base: Execution, seen: Observation
) -> Iterator[Divergence]:
    call, packet = seen.call, seen.call.form.packet
    name = packet.removeprefix("aten.")
    if not packet.startswith("aten.") or (name not in UNARY and name not in BINARY):
        return
    operands = _operands(seen, 1 if name in UNARY else 2)
    got = seen.held[0] if len(seen.held) == 1 else None
    if operands is None or got is None or call.form.overwrites or call.get("rounding_mode"):
        return
    session.checked["semantics", packet] += 1
    wanted = expected_dtype(name, operands)
    if wanted is not None and got.dtype is not wanted:
        yield replace(plain("semantics", base, "semantic difference",
                            f"the result is {got.dtype}, documented is {wanted}",
                            op=call.form.name), observation=seen)
        return
    if not got.is_floating_point() and got.dtype is not torch.bool:
        return
    floats = [_number(x) for x in operands]
    if any(f is None for f in floats) or not any(
            isinstance(x, Tensor) and x.is_floating_point() for x in operands):
        return
    yield from _special(base, seen, name, got, floats)


def _special(
    base: Execution, seen: Observation, name: str, got: Tensor, floats: list[Any]
) -> Iterator[Divergence]:
    """Elements of which an operand is NaN or infinite, or every one is 0, 1 or -1."""
    function = UNARY.get(name) or BINARY[name]
    alpha = seen.call.get("alpha", 1)
    if alpha != 1:
        return
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(np.asarray(function(*floats)), tuple(got.shape))
        beyond, simple = np.zeros(got.shape, dtype=bool), np.ones(got.shape, dtype=bool)
        for x in floats:
            beyond |= np.broadcast_to(~np.isfinite(x), got.shape)
            simple &= np.broadcast_to(~np.isfinite(x) | (x == 0) | (np.abs(x) == 1), got.shape)
        judged = (beyond | simple) & ~np.isfinite(expected) | simple & (expected == 0)
        values = bits.values(got)
        same = (values == expected) | (np.isnan(values.astype(np.float64))
                                       & np.isnan(expected.astype(np.float64)))
        wrong = judged & ~same
    if wrong.any():
        worst = worst_element(got, 0, wrong, expected.astype(np.float64), None, "NumPy", "bits")
        place = [f"{float(np.broadcast_to(x, got.shape)[worst.index])!r}" for x in floats] \
            if worst else []
        yield replace(
            plain("semantics", base, "semantic difference",
                  f"{name}({', '.join(place)}) is "
                  f"{worst.got.repr if worst else '?'}, NumPy's is "
                  f"{worst.expected.repr if worst else '?'}", ("torch", "NumPy"),
                  op=seen.call.form.name),
            observation=seen, worst=worst, expected=expected)


def _operands(seen: Observation, count: int) -> list[Any] | None:
    names, args = seen.call.form.argument_names, seen.call.args
    found = list(args[:count])
    if len(found) < count or any(x is None or isinstance(x, (list, tuple, str)) for x in found):
        return None
    if names[0] not in ("self", "input") or any(
            isinstance(x, Tensor) and (x.is_complex() or not bits.has_values(x.dtype)
                                       or bits.is_lazy(x)) for x in found):
        return None
    return found


def _number(x: Any) -> Any:
    if isinstance(x, Tensor):
        return bits.values(x).astype(np.float64)
    return np.asarray(x, dtype=np.float64) if isinstance(x, (bool, int, float)) else None
