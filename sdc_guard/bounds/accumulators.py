"""Sums of products as matrix units make them: aligned, cut off and added in blocks.

A matrix unit adds a block of B products to its accumulator c in one step (Blanchard, Higham, Lopez,
Mary and Pranesh, *Mixed precision block fused multiply-add*, SIAM J. Sci. Comput. 42(3), 2020).
NVIDIA's tensor cores do it like this (Fasi, Higham, Mikaitis and Pranesh, *Numerical behavior of
NVIDIA tensor cores*, PeerJ Comput. Sci. 7:e330, 2021; Khattak and Mikaitis, arXiv 2512.07004; Xie
and others, arXiv 2511.10909): products are exact; the B + 1 terms are shifted to the largest
exponent e of them and cut off below ``2^(e - w)``, ``w = p - 1 + x``; what is left is added
exactly; the sum is cut off, not rounded, to p bits.  ``p`` is the precision of the accumulator, 24,
and ``x`` the number of extra bits: 0 on Volta (B = 4), 1 on Turing and Ampere (B = 8, TF32 4), 2 on
Hopper (B = 16, TF32 8).  fp8 on Ada and Hopper keeps ``w = 13`` and p = 14 (B = 32).

*Bound.*  A step has exact sum s over terms t, computed s'.  The exponent e is that of a term, so
``2^e <= M = max |t|``, and each of B + 1 terms loses less than ``2^-w M``; the last cut loses less
than r times what it cuts, ``r = 2^-(p-1)`` (rounding to nearest: at most ``2^-p``).  With S the sum
of |a b| over all K products and ``E_j`` the error after step j, M is at most ``S + E_{j-1}``, what
the last cut cuts at most that times ``1 + (B + 1) 2^-w``, hence

    E_j <= E_{j-1} + t (S + E_{j-1}),    t = (B + 1) 2^-w (1 + r) + r,
    E <= ((1 + t)^N - 1) S <= N t / (1 - N t) S,    N = ceil(K / B).

For exact additions (no w) and B = 1 this is Higham's gamma_K.  A product whose K is split over
several accumulators is covered: P of them have at most N - P + 1 steps each, and their sums take P
- 1 additions in fp32, none of which errs by more than t.  Premise: a split is a multiple of B.

*Underflow.*  A step at the lower end of the accumulator's range loses at most B + 1 times the
smallest subnormal in the alignment and once in the last cut.  A subnormal operand enters with the
smallest normal exponent, not its own, so that ``2^e`` may be larger than M: by no more than
``tiny |b|``, or ``tiny^2`` where both are subnormal.  Over all blocks that is less than
``(B + 1) 2^-w (tiny (sum|a| + sum|b|) + N tiny^2)``.

*Which model holds.*  Libraries choose kernels by shape, and one that uses no matrix unit keeps
gamma_K and may not keep t; so the larger of both is used, for every model that a probe found
(:mod:`sdc_guard.check.probe`).  A CUDA device that was not probed gets Volta's, which is the
loosest one known: about ``3 K 2^-24``.  CPUs and fp32 or fp64 without TF32 add in IEEE arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import FLOAT16, FLOAT32, Format

TENSOR_KINDS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "tf32"}
"""Operands that matrix units take; ``tf32`` is float32 whose rounding is allowed."""


@dataclass(frozen=True, slots=True)
class AccumulatorModel:
    """How a device adds products.  What a probe could not tell is None.

    Attributes:
        precision: p, significand bits of the accumulator.
        extra_bits: x, bits kept below the accumulator's last one while terms are added; negative
            where alignment keeps fewer bits than the result can hold; None for exact addition.
        block: B, products added in one step.
        truncates: the sum is cut off to p bits, else rounded to nearest.
        eta: smallest subnormal number of the accumulator.
        products_exact: products enter the sum without rounding.
        operand_bits: significand bits with which operands are read.
        operands_truncated: operands are cut off to these bits, else rounded.
        keeps_subnormal_operands: False where they are read as 0.
        keeps_subnormal_results: False where subnormal sums become 0.
    """

    precision: int
    extra_bits: int | None
    block: int
    truncates: bool
    eta: float = FLOAT32.eta
    products_exact: bool | None = None
    operand_bits: int | None = None
    operands_truncated: bool | None = None
    keeps_subnormal_operands: bool | None = None
    keeps_subnormal_results: bool | None = None

    @property
    def width(self) -> int | None:
        """``w``: bits after the leading one of the largest term that the alignment keeps."""
        return None if self.extra_bits is None else self.precision - 1 + self.extra_bits

    def steps(self, num_products: int) -> int:
        """``N``: steps that ``K`` products take."""
        return -(-num_products // self.block)

    @property
    def alignment_loss(self) -> float:
        """``(B + 1) 2^-w``: what one step cuts off, relative to its largest term; 0 if exact."""
        return 0.0 if self.width is None else (self.block + 1) * 2.0**-self.width

    def coefficient(self, num_products: int) -> float:
        """``N t / (1 - N t)``: the factor of ``sum |a b|``; infinite where ``N t >= 1``."""
        last = 2.0 ** (1 - self.precision) if self.truncates else 2.0**-self.precision
        step = self.alignment_loss * (1.0 + last) + last
        return gamma(self.steps(num_products), step)

    def underflow(self, num_products: int) -> float:
        """The absolute loss where partial sums are subnormal, ``N (B + 2) eta``."""
        return self.steps(num_products) * (self.block + 2) * self.eta

    def unnormalised(self, num_products: int, operand: Format, abs_sum: Any) -> Any:
        """The loss that subnormal operands cause in the others, for ``sum|a| + sum|b|``."""
        rest = operand.tiny * abs_sum + self.steps(num_products) * operand.tiny**2
        return self.alignment_loss * (1.0 + 2.0**-10) * rest

    def describe(self) -> str:
        """One line for people."""
        if self.extra_bits is None:
            added = "added exactly"
        elif self.extra_bits >= 0:
            added = f"cut off at {self.extra_bits} extra bits"
        else:
            added = f"cut off {-self.extra_bits} bits above the last one"
        end = "cut off" if self.truncates else "rounded"
        inexact = ", products rounded" if self.products_exact is False else ""
        flushed = [name for name, keeps in (("operands", self.keeps_subnormal_operands),
                                            ("results", self.keeps_subnormal_results))
                   if keeps is False]
        lost = f", subnormal {' and '.join(flushed)} lost" if flushed else ""
        return (f"{self.precision} bits, {self.block} at a time {added}, sum {end}"
                f"{inexact}{lost}")


IEEE_FLOAT32 = AccumulatorModel(24, None, 1, truncates=False)
"""A chain of fused multiply-adds in fp32."""
UNPROBED = AccumulatorModel(24, 0, 4, truncates=True)
"""Volta's tensor cores, the loosest fp32 accumulation known of any."""
HALF_ACCUMULATOR = AccumulatorModel(11, 0, 4, truncates=True, eta=FLOAT16.eta)
"""What ``torch.backends.cuda.matmul.allow_fp16_accumulation`` permits."""

_PROBED: dict[tuple[str, str], frozenset[AccumulatorModel]] = {}


def learn(device_type: str, kind: str, found: frozenset[AccumulatorModel]) -> None:
    """From now on bounds hold for these models, and for those that were learned before: several
    devices of one type may differ.  Nothing is learned from an empty set."""
    if found:
        _PROBED[device_type, kind] = _PROBED.get((device_type, kind), frozenset()) | found


def forget() -> None:
    """As before any probe."""
    _PROBED.clear()


def kind_of(dtype: torch.dtype, device_type: str, u_in: float) -> str | None:
    """What a matrix unit makes of operands of ``dtype`` read with rounding ``u_in``; None where
    none is used: on a CPU, in fp32 without TF32, in fp64 (whose tensor cores are IEEE)."""
    if device_type != "cuda" or (dtype is torch.float32 and not u_in):
        return None
    return TENSOR_KINDS.get(dtype)


def models_of(dtype: torch.dtype, device_type: str, u_in: float) -> tuple[AccumulatorModel, ...]:
    """The models that a bound must hold for beside IEEE arithmetic; none on a CPU."""
    kind = kind_of(dtype, device_type, u_in)
    if kind is None:
        return ()
    found = tuple(_PROBED.get((device_type, kind), (UNPROBED,)))
    matmul = torch.backends.cuda.matmul
    if kind == "float16" and getattr(matmul, "allow_fp16_accumulation", False):
        return (*found, HALF_ACCUMULATOR)
    return found


def worst_coefficient(
    num_terms: int, u: float, models: tuple[AccumulatorModel, ...]
) -> float:
    """The factor of ``sum |a b|`` that covers IEEE arithmetic of unit roundoff ``u`` in any order
    and every one of ``models``."""
    return max(gamma(num_terms, u), *(m.coefficient(num_terms) for m in models), 0.0)
