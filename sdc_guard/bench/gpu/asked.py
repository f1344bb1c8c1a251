"""What is asked of the kernels on a device, and whether the figures meet it."""

from __future__ import annotations

from sdc_guard.bench.gpu.figures import (
    FULL,
    Copy,
    Figure,
    GpuFile,
    ProductCost,
    StepCost,
)
from sdc_guard.bench.gpu.product import product_name
from sdc_guard.bench.gpu.sizes import SIZES
from sdc_guard.bench.gpu.steps import step_name
from sdc_guard.bench.gpu.watchers import BUDGET, KERNELS
from sdc_guard.intervals import Interval
from sdc_guard.records import Record

MET, NOT_MET, NOT_MEASURED = "met", "NOT met", "not measured"


class Asked(Record, frozen=True, kw_only=True):
    """One limit.  ``value`` must be at most ``limit``; it is None where there is no figure.

    ``covered``: share of the calls that were checked, where the limit is for checking all.
    """

    what: str
    limit: float
    value: Interval | None
    is_share: bool
    covered: float | None = None

    @property
    def verdict(self) -> str:
        """``met`` or ``NOT met`` by the value, with a word where its interval says both, or where
        not everything is checked."""
        if self.value is None:
            return NOT_MEASURED
        if self.covered is not None and self.covered < 1.0:
            return f"{NOT_MET}, only {100 * self.covered:.2f} % of the calls are checked"
        word = MET if self.value.value <= self.limit else NOT_MET
        between = self.value.low <= self.limit < self.value.high
        return f"{word}, but the limit is within the interval" if between else word


def bandwidth_of(figures: dict[str, Figure]) -> float | None:
    """The largest measured copy bandwidth in bytes/s, read and written."""
    found = [f.bytes_per_s for f in figures.values() if isinstance(f, Copy)]
    return max(found, default=None)


def floor_ms(num_bytes: int, bytes_per_s: float) -> float:
    """What moving so many bytes takes at that bandwidth."""
    return 1e3 * num_bytes / bytes_per_s


def of_floor(cost: ProductCost, bytes_per_s: float | None) -> Interval | None:
    """The check's time over the floor."""
    if bytes_per_s is None:
        return None
    return scaled(cost.check_ms, 1.0 / floor_ms(cost.num_bytes, bytes_per_s))


def scaled(interval: Interval, factor: float, shift: float = 0.0) -> Interval:
    """``factor * interval + shift`` for a positive factor."""
    return Interval(value=factor * interval.value + shift, low=factor * interval.low + shift,
                    high=factor * interval.high + shift, confidence=interval.confidence)


def asked(contents: GpuFile) -> tuple[Asked, ...]:
    """The limits, with figures where they were measured on a device at full size."""
    figures = {named.name: named.figure for named in contents.figures}
    if contents.device != "cuda" or contents.form != FULL:
        figures = {}
    product = figures.get(product_name("bf16", SIZES[FULL].product))
    kernels, budget = (figures.get(step_name(name)) for name in (KERNELS, BUDGET))
    ratio = product.check_ratio if isinstance(product, ProductCost) else None
    floors = (of_floor(product, bandwidth_of(figures)) if isinstance(product, ProductCost)
              else None)
    return (
        Asked(what="checksum of the 8192^3 bf16 product, over the product's time", limit=0.08,
              value=ratio, is_share=True),
        Asked(what="the same, over bytes / copy bandwidth", limit=1.15, value=floors,
              is_share=False),
        Asked(what="all matrix product and reduction calls of the step checked by kernels, added "
                   "time", limit=0.08, value=_added(kernels), is_share=True,
              covered=_covered(kernels)),
        Asked(what="budget 1 %, added time", limit=0.01, value=_added(budget, totals=True),
              is_share=True),
    )


def _covered(figure: Figure | None) -> float | None:
    return figure.seen.share() or 0.0 if isinstance(figure, StepCost) else None


def _added(figure: Figure | None, totals: bool = False) -> Interval | None:
    if not isinstance(figure, StepCost):
        return None
    return scaled(figure.total_ratio if totals else figure.ratio, 1.0, -1.0)


