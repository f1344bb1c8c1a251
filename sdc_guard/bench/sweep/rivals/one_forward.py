"""One forward pass: a seeded encoder of three layers runs once, and a hash of its output is
compared with that of a peer."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdc_guard.bench.sweep.faults import Dwell, Fault
from sdc_guard.bench.sweep.rivals.base import Rival, Work, work
from sdc_guard.sweep.declared import Bits, Made
from sdc_guard.sweep.exact import bits_of

WIDTH, TOKENS, LAYERS = 64, 32, 3


class OneForward(Rival):
    """SHA-256 of the output against a peer's; each operator's result may be struck."""

    name = "one-forward hash"
    compares = "SHA-256 of the output of one forward pass with a peer's"
    reduced = "three encoder layers of width 64 on 32 tokens, in float16"

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.from_numpy(random.standard_normal(shape) / 8).half()

        self._tokens_TC = drawn(TOKENS, WIDTH) * 8
        self._layers = [
            (drawn(WIDTH, 3 * WIDTH), drawn(WIDTH, WIDTH), drawn(WIDTH, 4 * WIDTH),
             drawn(4 * WIDTH, WIDTH)) for _ in range(LAYERS)]
        self._steps: list[Work] = []
        self._clean = self._digest(None)
        self.works = tuple(self._steps)

    def finds(self, fault: Fault) -> bool:
        return self._digest(fault) != self._clean

    def dwell(self, dwell_s: float) -> Dwell:
        """One pass, however much time there is."""
        return Dwell(len(self.works), sum(w.num_elements for w in self.works))

    @property
    def left(self) -> dict[str, bytes]:
        return {}  # nothing was there before the only pass

    def _digest(self, fault: Fault | None) -> str:
        steps = iter(self._steps)

        def done(op: str, result: Tensor, *operands: Tensor) -> Tensor:
            """The result of the next operator, as the unit gives it."""
            if fault is None:
                self._steps.append(work(f"{len(self._steps)} {op}", op, operands,
                                        lambda *_: result.clone()))
                return result
            made = Made(run=lambda: (result,), expected=None, inputs=_bits(operands))
            fault(next(steps).case, made, (result,))
            return result

        x_TC = self._tokens_TC.clone()
        for qkv, out, up, down in self._layers:
            normed = done("aten.layer_norm", functional.layer_norm(x_TC, (WIDTH,)), x_TC)
            mixed = done("aten.mm", normed @ qkv, normed, qkv)
            q, k, v = (part[None] for part in mixed.chunk(3, dim=1))
            seen = done("aten.scaled_dot_product_attention",
                        functional.scaled_dot_product_attention(q, k, v)[0].contiguous(), mixed)
            x_TC = x_TC + done("aten.mm", seen @ out, seen, out)
            wide = done("aten.mm", functional.layer_norm(x_TC, (WIDTH,)) @ up, x_TC, up)
            x_TC = x_TC + done("aten.mm", functional.gelu(wide) @ down, wide, down)
        return hashlib.sha256(bits_of(x_TC).tobytes()).hexdigest()


def _bits(operands: tuple[Tensor, ...]) -> tuple[Bits, ...]:
    return tuple(bits_of(x) for x in operands)
