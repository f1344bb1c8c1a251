"""How a device adds up products, asked once for each device and precision setting.

Asked are ``tl.dot`` through our kernel, in a size for ``mma`` and in one for ``wgmma``, and the
library behind ``torch.mm`` in two sizes and two layouts (``torch._scaled_mm`` for fp8, with and
without fast accumulation), all with fp32 results.  :func:`feed` hands what was found to the bounds,
which then hold for every model found, the default of an unprobed device among them if answers fit
none.  The probe draws from no generator of torch, changes no switch, and runs with autograd,
autocast and dispatch modes off, so that training does not see it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.accumulators import TENSOR_KINDS, UNPROBED, AccumulatorModel, learn
from sdc_guard.bounds.products import fp32_precision, input_rounding
from sdc_guard.check.accumulator_questions import LENGTH, OPERANDS, Question, identify

PairedDots = Callable[[Tensor, Tensor], Tensor]
"""Results [T] for the rows of two matrices [T, LENGTH]."""
TILES = (16, 64)
SIZES = (64, 512)


@dataclass(frozen=True, slots=True)
class Probed:
    """What one way to a product does.

    ``kind``: of operands, a key of ``OPERANDS``.  ``route``: ``tl.dot`` or the library, and its
    variant.  ``model``: None if the answers fit none, or if there were none: ``failure`` says why.
    """

    kind: str
    route: str
    model: AccumulatorModel | None
    failure: str = ""


_CACHE: dict[tuple[Any, ...], tuple[Probed, ...]] = {}


def probe(device: torch.device, *, library_only: bool = False) -> tuple[Probed, ...]:
    """Every way to a product that this device offers under the switches of this moment; asked once,
    remembered until the process ends.

    Args:
        device: a CPU or a CUDA device.
        library_only: ask only for what feeds the bounds, the library's products of fp32 and the
            half formats: about two seconds on the first call, where all takes some tens, most of
            them to compile kernels.
    """
    key = (*_conditions(device), library_only)
    if key not in _CACHE:
        _CACHE[key] = tuple(_ask_all(device, library_only))
    return _CACHE[key]


def feed(device: torch.device) -> tuple[Probed, ...]:
    """Ask the library, and from now on the bounds of products on such devices are those of what was
    found, and of what other settings gave before.  Does nothing on a CPU, whose arithmetic is
    IEEE's, or while a CUDA graph is captured."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return ()
    found = probe(device, library_only=True)
    teach(device.type, found)
    return found


def teach(device_type: str, found: Sequence[Probed]) -> None:
    """Hand models to the bounds; answers that fit no model keep the default among them."""
    for kind in TENSOR_KINDS.values():
        models = {p.model or UNPROBED for p in found if p.kind == kind and not p.failure}
        learn(device_type, kind, frozenset(models))


def is_ieee(model: AccumulatorModel) -> bool:
    """True for chains of rounded additions in fp32, fused or not, of operands read in full."""
    return (model.precision, model.extra_bits, model.truncates) == (24, None, False) and (
        model.operand_bits == 24)


def answer_by(
    paired_dots: PairedDots, dtype: torch.dtype, device: torch.device
) -> Callable[[Sequence[Question]], list[float]]:
    """Answers by a function of two matrices, one question in each row."""

    def answer(questions: Sequence[Question]) -> list[float]:
        a_TK, b_TK = (np.zeros((len(questions), LENGTH), np.float32) for _ in range(2))
        places = [(t, place) for t, q in enumerate(questions) for place, _, _ in q.terms]
        rows, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
        for target, i in ((a_TK, 1), (b_TK, 2)):
            target[rows, columns] = [term[i] for q in questions for term in q.terms]
        operands = (torch.from_numpy(x).to(device).to(dtype) for x in (a_TK, b_TK))
        return [float(x) for x in paired_dots(*operands).cpu().tolist()]

    return answer


def by_library(
    size: int, *, transposed: bool, multiply: Callable[[Tensor, Tensor], Tensor]
) -> PairedDots:
    """The diagonals of square products, ``size`` questions at a time."""

    def paired_dots(a_TK: Tensor, b_TK: Tensor) -> Tensor:
        results = []
        for start in range(0, len(a_TK), size):
            parts = [x[start : start + size] for x in (a_TK, b_TK)]
            num = len(parts[0])
            # A product of another size may take another kernel, so the last one is filled up.
            a, b = (torch.cat((x, x.new_zeros(size - num, LENGTH))) if num < size else x
                    for x in parts)
            right = b.t() if transposed else b.t().contiguous()
            results.append(multiply(a, right).diagonal()[:num].float())
        return torch.cat(results)

    return paired_dots


def _ask_all(device: torch.device, library_only: bool) -> Iterator[Probed]:
    # Triton launches on the current device, whatever its tensors are on.
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with (
        current,
        torch._C._DisableTorchDispatch(), torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        for kind, dtype, route, paired_dots in _routes(device, library_only):
            try:
                model = identify(answer_by(paired_dots, dtype, device), OPERANDS[kind])
            except Exception as error:  # torch's and triton's ways to say that they have none
                yield Probed(kind, route, None, f"{type(error).__name__}: {error}".split("\n")[0])
            else:
                yield Probed(kind, route, model)


def _routes(
    device: torch.device, library_only: bool
) -> Iterator[tuple[str, torch.dtype, str, PairedDots]]:
    on_cuda = device.type == "cuda"
    if on_cuda and not library_only and importlib.util.find_spec("triton") is not None:
        yield from kernel_routes()
    reads = "tf32" if input_rounding(torch.float32, device.type) else "float32"
    plain: list[tuple[str, torch.dtype]] = [(reads, torch.float32)]
    if on_cuda:
        plain += [("float16", torch.float16), ("bfloat16", torch.bfloat16)]
    for kind, dtype in plain:
        for size in SIZES:
            for transposed in (False, True):
                yield (kind, dtype, f"torch.mm {size}{' transposed' if transposed else ''}",
                       by_library(size, transposed=transposed, multiply=_mm))
    fp8 = getattr(torch, "float8_e4m3fn", None)
    if on_cuda and not library_only and fp8 is not None:
        for fast in (False, True):
            name = f"torch._scaled_mm{' fast' if fast else ''}"
            yield "float8_e4m3fn", fp8, name, by_library(
                SIZES[0], transposed=True, multiply=_scaled_mm(fast))


def kernel_routes() -> Iterator[tuple[str, torch.dtype, str, PairedDots]]:
    """``tl.dot`` in every format and tile."""
    from sdc_guard_kernels.accumulator_probe import DTYPES, paired_dots

    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for kind in ("float32", "tf32") if dtype is torch.float32 else (name,):
            for tile in TILES:
                def ask(
                    a_TK: Tensor, b_TK: Tensor, tile: int = tile, kind: str = kind
                ) -> Tensor:
                    precision = "tf32" if kind == "tf32" else "ieee"
                    return paired_dots(a_TK, b_TK, tile=tile, precision=precision)

                yield kind, dtype, f"tl.dot {tile}", ask


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype is torch.float32:
        return torch.mm(a, b)
    mm: Any = torch.mm
    return mm(a, b, out_dtype=torch.float32)  # type: ignore[no-any-return]


def _scaled_mm(fast: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def multiply(a: Tensor, b: Tensor) -> Tensor:
        one = torch.ones((), dtype=torch.float32, device=a.device)
        scaled_mm: Any = torch._scaled_mm
        return scaled_mm(  # type: ignore[no-any-return]
            a, b, scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=fast)

    return multiply


def _conditions(device: torch.device) -> tuple[Any, ...]:
    """What may change how this device adds."""
    if device.type != "cuda":
        return (device.type, fp32_precision(torch.backends.mkldnn), torch.get_num_threads())
    matmul = torch.backends.cuda.matmul
    index = torch.cuda.current_device() if device.index is None else device.index
    names = ("allow_fp16_accumulation", "allow_fp16_reduced_precision_reduction",
             "allow_bf16_reduced_precision_reduction")
    return ("cuda", index, fp32_precision(torch.backends.cuda),
            *(str(getattr(matmul, name, None)) for name in names))
