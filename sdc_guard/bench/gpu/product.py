"""What checking a large matrix product costs, beside the product itself and making it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from sdc_guard.bench.gpu.clock import Clock
from sdc_guard.bench.gpu.figures import ProductCost
from sdc_guard.bench.gpu.job import Setting, Telling
from sdc_guard.bench.gpu.notes import BenchNotes
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.intervals import Interval, median
from sdc_guard.ops import lookup

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32,
          "fp32": torch.float32}
FIRST, OTHERS = ("bf16",), ("fp16", "tf32", "fp32")


class NoKernel(Exception):
    """No kernel takes this call."""


def product_name(dtype: str, size: int) -> str:
    """``product bf16 8192^3``."""
    return f"product {dtype} {size}^3"


def expected_first(setting: Setting) -> tuple[str, ...]:
    """The product that a figure is asked for."""
    return tuple(product_name(dtype, setting.sizes.product) for dtype in FIRST)


def expected_others(setting: Setting) -> tuple[str, ...]:
    """Products in the other formats."""
    return tuple(product_name(dtype, setting.sizes.product) for dtype in OTHERS)


def measure_first(telling: Telling) -> None:
    """The bf16 product."""
    _measure(telling, FIRST)


def measure_others(telling: Telling) -> None:
    """fp16, TF32 and fp32."""
    _measure(telling, OTHERS)


def _measure(telling: Telling, dtypes: tuple[str, ...]) -> None:
    clock = Clock(telling.setting.device)
    for dtype in dtypes:
        with _fp32_products("high" if dtype == "tf32" else "highest"):
            telling.attempt(product_name(dtype, telling.setting.sizes.product),
                            partial(cost_of, telling, clock, dtype))


def cost_of(telling: Telling, clock: Clock, dtype: str) -> ProductCost:
    """Product, check, check with the second factor remembered, and rerun, in turn in each round.

    Raises:
        NoKernel: if matrix products have none, or it does not take this one.
    """
    setting, size = telling.setting, telling.setting.sizes.product
    torch.manual_seed(setting.seed)
    a_MK, b_KN = (torch.randn(size, size, device=setting.device).to(DTYPES[dtype])
                  for _ in range(2))
    form = form_of(torch.ops.aten.mm.default)
    call = BoundCall(form, form.bind((a_MK, b_KN), {}))
    spec = lookup("aten.mm")
    c_MN = a_MK @ b_KN
    run = spec.kernel(call, (c_MN,)) if spec is not None and spec.kernel is not None else None
    if run is None:
        raise NoKernel("no kernel takes this matrix product")
    fresh, keeping = (BenchNotes(c_MN, seed=setting.seed, remembers=r) for r in (False, True))
    held = [c_MN]

    def product() -> None:
        held[0] = a_MK @ b_KN

    def check(notes: BenchNotes) -> None:
        notes.launch(run, call, (held[0],))

    def rerun() -> bool:
        return torch.equal(a_MK @ b_KN, held[0])

    # The rerun waits for the device, so it comes last.
    pieces = (product, partial(check, fresh), partial(check, keeping), rerun)
    clock.times_ms(pieces)  # compiles
    rounds = [clock.times_ms(pieces) for _ in telling.rounds(setting.sizes.rounds)]
    device_ms = [list(column) for column in zip(*(spent_ms for spent_ms, _ in rounds), strict=True)]
    product_ms, check_ms, remembered_ms, rerun_ms = device_ms

    def ratio(times_ms: list[float]) -> Interval:
        return median([t / p for t, p in zip(times_ms, product_ms, strict=True)])

    return ProductCost(
        dtype=dtype, shape=(size, size, size), num_rounds=len(rounds),
        product_ms=median(product_ms), check_ms=median(check_ms),
        remembered_ms=median(remembered_ms), rerun_ms=median(rerun_ms),
        host_ms=median([host_ms[1] for _, host_ms in rounds]),
        check_ratio=ratio(check_ms), remembered_ratio=ratio(remembered_ms),
        rerun_ratio=ratio(rerun_ms), num_bytes=sum(map(_num_bytes, (a_MK, b_KN, c_MN))),
        verdicts=fresh.verdicts())


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def _fp32_products(precision: str) -> Iterator[None]:
    """``highest`` for fp32 products in fp32, ``high`` for TF32 where the device has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
