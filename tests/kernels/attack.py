"""Correct evaluations that try to make a kernel accuse them, and planted errors that it must see.

The calls are those of ``tests/soundness``: operands near overflow, cancelling, subnormal, over the
whole range, constant, with one outlier, with NaN and infinities; transposed, with gaps, expanded.

*Correct.*  No kernel may have anything over its limit on what ATen gives, nor on what
``tests/soundness`` evaluates in another permitted order, where the contract names that algorithm.
A doubt that the host's own reference shares is counted apart: it is an attack on the bound, not on
the kernel.

*Planted.*  An element gets the value that lies some multiple of its bound away from what the
host's reference expects, and the host calls it wrong.  A kernel that judges every element must then
call the same number of elements wrong; a row checksum judges rows, a sample what it drew.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.check.reference import compare
from sdc_guard.ops import OpSpec, Reference
from sdc_guard.ops._kernels import KernelCheck
from sdc_guard.ops._registry import all_specs
from sdc_guard_kernels.verdict import Verdict
from tests.kernels.offered import Noted
from tests.soundness.cases import LAYOUTS, Attack, Samples
from tests.soundness.evaluators import discover, emulations, has_emulations
from tests.soundness.judging import references_of
from tests.soundness.values import drawn_fill

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MOST_ELEMENTS = 60_000
"""The interpreter is slow: larger calls are not attacked."""
REFUSED = (RuntimeError, IndexError, ValueError, NotImplementedError)


def kernel_specs() -> list[OpSpec]:
    """Ops whose files offer a kernel."""
    return [spec for spec in all_specs() if spec.kernel is not None]


@dataclass(slots=True)
class Attacked:
    """What attacks on an op in a dtype came to.  ``accused``: correct results with something over a
    kernel's limit; ``shared``: such that the host's reference accuses too."""

    packet: str
    dtype: str
    calls: int = 0
    verdicts: int = 0
    emulated: int = 0
    accused: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


class Attacker:
    """Attacks on an op in a dtype."""

    def __init__(self, spec: OpSpec, dtype: torch.dtype, seed: int = 0) -> None:
        self.spec, self.dtype = spec, dtype
        self.samples = Samples(spec, dtype, seed)
        name = str(dtype).removeprefix("torch.")
        self.rng = np.random.default_rng([seed, zlib.crc32(f"{spec.packet} {name}".encode())])
        self.result = Attacked(spec.packet, name)
        discover()

    def drawn(self, turn: int) -> Attack:
        """A random attack on sample ``turn``."""
        rng = self.rng
        fills = tuple(None if rng.random() < 0.08 else drawn_fill(rng)
                      for _ in range(int(rng.integers(1, 4))))
        layout = str(rng.choice(LAYOUTS)) if rng.random() < 0.5 else "sampled"
        return Attack(turn, fills, (layout,), seed=int(rng.integers(2**32)))

    def made(self, attack: Attack) -> tuple[BoundCall, tuple[Tensor, ...]] | None:
        """A call and what ATen gives; None where the op does not take it."""
        call = self.samples.call(attack)
        if sum(t.numel() for _, t in call.tensors()) > MOST_ELEMENTS:
            return None
        try:
            return call, call.run_identical()
        except REFUSED:
            return None

    def correct(self, attack: Attack) -> None:
        """One correct call, and its evaluations in other orders."""
        made = self.made(attack)
        if made is None:
            return
        call, held = made
        self.result.calls += 1
        references = references_of(self.spec, call, held)
        self._judge(call, held, references, f"ATen, {attack.told()}")
        if not has_emulations(self.spec.packet):
            return
        rng = np.random.default_rng(attack.seed)
        for emulation in emulations(call, held, rng):
            if not emulation.keeps_contract or references[emulation.output] is None:
                continue
            like = held[emulation.output]
            values = torch.from_numpy(np.array(emulation.values, dtype=np.float64)).to(like.dtype)
            image = bits.empty_image(like).copy_(values.reshape(like.shape))
            self.result.emulated += 1
            changed = tuple(image if i == emulation.output else t for i, t in enumerate(held))
            self._judge(call, changed, references, f"{emulation.name}, {attack.told()}",
                        only=emulation.output)

    def _judge(self, call: BoundCall, held: tuple[Tensor, ...],
               references: tuple[Reference | None, ...], told: str, only: int | None = None
               ) -> None:
        for check, verdict in verdicts(self.spec, call, held):
            if only is not None and check.output != only:
                continue
            self.result.verdicts += 1
            if not verdict.num_over:
                continue
            reference = references[check.output]
            text = (f"{call.form.name} {[tuple(t.shape) for _, t in call.tensors()]} {check}: "
                    f"{verdict}; {told}")
            by_host = reference is not None and compare(held[check.output], reference) is not None
            (self.result.shared if by_host else self.result.accused).append(text)

    def planted(self, attack: Attack, factor: float, most: int
                ) -> Iterator[tuple[KernelCheck, int, int]]:
        """Plant up to ``most`` errors in each judged result of a call; for each kernel check what
        was planted and what it called wrong."""
        made = self.made(attack)
        if made is None:
            return
        call, held = made
        changed, planted = [], []
        for result, reference in zip(held, references_of(self.spec, call, held), strict=True):
            image, num = result, 0
            if reference is not None and result.numel():
                image, num = plant(result, reference, factor, most, self.rng)
            changed.append(image)
            planted.append(num)
        for check, verdict in verdicts(self.spec, call, tuple(changed)):
            num = planted[check.output]
            yield check, num, min(verdict.num_over, num)


def verdicts(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]
) -> list[tuple[KernelCheck, Verdict]]:
    """Of every kernel check of a call, as a guard would launch them; none where none takes it."""
    assert spec.kernel is not None
    with np.errstate(all="ignore"):
        run = spec.kernel(call, held)
        if run is None:
            return []
        notes = Noted(12345)
        run(call, held, notes)
        return notes.verdicts()


def plant(
    result: Tensor, reference: Reference, factor: float, most: int, rng: np.random.Generator
) -> tuple[Tensor, int]:
    """The result with errors of ``factor`` bounds in up to ``most`` rows, one in each, that the
    host's reference calls wrong; and how many they are.  Where the bound is 0 the error is the
    least that the format has."""
    shape = tuple(result.shape)
    image = bits.empty_image(result).copy_(result)
    row_length = shape[-1] if len(shape) > 1 else 1
    taken: set[int] = set()
    num = 0
    for place in map(int, rng.permutation(result.numel())):
        if num == most or len(taken) == 4 * most:
            break
        if place // row_length in taken:
            continue
        taken.add(place // row_length)
        index = tuple(int(i) for i in np.unravel_index(place, shape))
        wrong = _wrong(result[index], reference, index, shape, factor * rng.choice([-1.0, 1.0]))
        alone = bits.empty_image(result).copy_(result)
        alone[index] = wrong
        with np.errstate(all="ignore"):
            if compare(alone, reference) is not None:
                image[index] = wrong
                num += 1
    return image, num


def _wrong(right: Tensor, reference: Reference, index: tuple[int, ...], shape: tuple[int, ...],
           factor: float) -> Tensor:
    """The element's value with an error of ``factor`` bounds."""
    if right.dtype is torch.bool:
        return ~right
    if not right.dtype.is_floating_point:
        return right + 1
    expected, limit = (float(np.broadcast_to(np.asarray(x, dtype=np.float64), shape)[index])
                       for x in (reference.expected, reference.contract))
    if limit == 0:
        return torch.nextafter(right, torch.full_like(right, np.copysign(np.inf, factor)))
    return torch.tensor(expected + factor * limit, dtype=torch.float64).to(right.dtype)
