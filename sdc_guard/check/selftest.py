"""Before it is used, each witness must see one fixed flip in a copy.

A witness that does not see it is *dead*: it is reported and not used.  Takes some milliseconds,
uses fixed data, draws no random number and leaves no trace on the user's modes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.device import DeviceChecks
from sdc_guard.check.plan import Plan, make_plan
from sdc_guard.check.reference import checksum, full_reference, sampled_reference
from sdc_guard.ops import lookup
from sdc_guard.records import Observation

SIZE = 24
FLIPPED_INDEX = 37


def flipped(tensor: Tensor, flat_index: int, bit: int) -> Tensor:
    """An image of a contiguous tensor with one bit of one element flipped."""
    image = bits.snapshot(tensor)
    raw = bits.raw(image).reshape(-1)
    raw[flat_index] ^= raw.dtype.type(1 << bit)
    return image


def _product() -> tuple[Plan, BoundCall, Tensor]:
    values = torch.frombuffer(
        np.cos(np.arange(2 * SIZE * SIZE, dtype=np.float32) * np.float32(0.7)), dtype=torch.float32
    )
    a_MK, b_KN = values.view(2, SIZE, SIZE).unbind(0)
    form = form_of(torch.ops.aten.mm.default)
    call = BoundCall(form, (a_MK, b_KN))
    held = call.run()
    spec = lookup("aten.mm")
    assert spec is not None
    return make_plan(spec, call, held), call, held[0]


def dead_witnesses() -> frozenset[str]:
    """Names of the witnesses that miss a flip of the lowest bit (replay) or of the top exponent
    bit (reference, sample, checksum, residual), or that complain about the untouched result."""
    dead: set[str] = set()
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        plan, call, right = _product()
        low = flipped(right, FLIPPED_INDEX, 0)
        high = flipped(right, FLIPPED_INDEX, 30)
        for relation in plan.relations:
            clean = all(p.agrees() for p in relation.run(call, (right,), 0))
            blind = all(p.agrees() for p in relation.run(call, (low,), 0))
            if not clean or blind:
                dead.add("replay")
        for name, judge in (("reference", full_reference), ("checksum", checksum)):
            if judge(plan, call, (right,)) or not judge(plan, call, (high,)):
                dead.add(name)
        generator = np.random.default_rng(0)
        if not sampled_reference(plan, call, (high,), generator)[1]:
            dead.add("reference")
        dead |= _dead_invariant() | _dead_residual()
    return frozenset(dead)


def _dead_invariant() -> set[str]:
    """A copy with one flipped bit must break the copy's exact fact."""
    spec = lookup("aten.clone")
    if spec is None or spec.invariant is None:
        return set()
    source = torch.frombuffer(np.arange(64, dtype=np.float32), dtype=torch.float32)
    form = form_of(torch.ops.aten.clone.default)
    call = BoundCall(form, form.bind((source,), {}))
    held = call.run()
    clean = spec.invariant(call, held) is None
    seen = spec.invariant(call, (flipped(held[0], FLIPPED_INDEX, 0),)) is not None
    return set() if clean and seen else {"invariant"}


def _dead_residual() -> set[str]:
    """A solution of a triangular system with one wrong element must miss its equation; nothing here
    runs a solver, which may be what is broken."""
    spec = lookup("aten.linalg_solve_triangular")
    if spec is None or spec.residual is None:
        return set()
    system = np.triu(np.ones((SIZE, SIZE), dtype=np.float32)) + 3 * np.eye(SIZE, dtype=np.float32)
    solution = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE) % 7
    right = system @ solution  # integers: exact
    t, x, b = (torch.frombuffer(a.astype(np.float32), dtype=torch.float32).view(SIZE, SIZE)
               for a in (system, solution, right))
    form = form_of(torch.ops.aten.linalg_solve_triangular.default)
    call = BoundCall(form, form.bind((t, b), {"upper": True}))
    plan = make_plan(spec, call, (x,))
    clean = not full_reference(plan, call, (x,))
    seen = bool(full_reference(plan, call, (flipped(x, FLIPPED_INDEX, 30),)))
    return set() if clean and seen else {"residual"}


def kernel_is_alive(device: torch.device) -> bool:
    """True if the kernels on a device say nothing of a right product and see one wrong exponent.

    Raises whatever a launch raises there.
    """
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        plan, call, right = _product()
        there = call.mapped(lambda _, t: t.to(device))
        checks = DeviceChecks("always", np.random.default_rng(0), 2**30)
        run = checks.run_for(plan, there, (right.to(device),))
        if run is None:
            return False
        for held in (right, flipped(right, FLIPPED_INDEX, 30)):
            checks.launch(plan, Observation(there, (held.to(device),)), run, held)
        doubts, _ = checks.read()
        return bool(doubts) and all(d.pending.tag is not right for d in doubts)
