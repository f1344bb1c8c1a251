"""What the measurements leave: records that go into ``kernels.json``."""

from __future__ import annotations

from sdc_guard.bench.results import Stamp
from sdc_guard.intervals import Interval
from sdc_guard.records import Record

FULL, TINY = "full", "tiny"


class Device(Record, frozen=True, kw_only=True, tag="device"):
    """The device and the versions.  Fields that cannot be read are ``unknown``."""

    name: str
    capability: str
    num_multiprocessors: int
    memory_bytes: int
    cuda: str
    cudnn: str
    torch: str
    triton: str


class Clocks(Record, frozen=True, kw_only=True, tag="clocks"):
    """What ``nvidia-smi`` said right after a job: ``unknown`` where it says nothing."""

    after: str
    text: str


class Copy(Record, frozen=True, kw_only=True, tag="copy"):
    """A copy on the device, of ``num_bytes``: as many are read and as many written."""

    num_bytes: int
    num_rounds: int
    time_ms: Interval

    @property
    def bytes_per_s(self) -> float:
        """Read and written, in the median round."""
        return 2e3 * self.num_bytes / self.time_ms.value


class Verdicts(Record, frozen=True, kw_only=True):
    """What the kernels' records said of results that nobody has broken.

    ``num_over`` counts judged quantities over their limit, which should be none.
    """

    witnesses: tuple[str, ...]
    worst_share: float
    num_over: int


class ProductCost(Record, frozen=True, kw_only=True, tag="product"):
    """One product C = A B and its check; ``shape`` is (m, n, k).

    ``check_ms``: nothing was known before.  ``remembered_ms``: what the check keeps of the second
    factor, a weight, was there.  ``rerun_ms``: ``torch.equal(A @ B, C)``.  The ratios are medians
    over rounds of a round's time over that of its product.  ``host_ms``: what launching the check
    takes on the host.  ``num_bytes``: A, B and C once each.
    """

    dtype: str
    shape: tuple[int, int, int]
    num_rounds: int
    product_ms: Interval
    check_ms: Interval
    remembered_ms: Interval
    rerun_ms: Interval
    host_ms: Interval
    check_ratio: Interval
    remembered_ratio: Interval
    rerun_ratio: Interval
    num_bytes: int
    verdicts: Verdicts


class CallCost(Record, frozen=True, kw_only=True, tag="call"):
    """The check of one call, on the operands that a step of training gave it, or on random ones.

    ``calls_per_step`` is 0 for calls that the step does not make.  ``op_ms`` is None for a call
    that overwrites an operand, which cannot be made again.  ``num_bytes``: every operand and result
    once.
    """

    op: str
    operands: str
    calls_per_step: int
    num_rounds: int
    op_ms: Interval | None
    check_ms: Interval
    host_ms: Interval
    num_bytes: int
    verdicts: Verdicts


class OpSeen(Record, frozen=True, kw_only=True):
    """Calls of one op under a watched step; ``is_asked``: a matrix product or a reduction."""

    op: str
    is_asked: bool
    calls: int
    calls_checked: int
    witnesses: dict[str, int]
    not_tested: dict[str, int]


class Seen(Record, frozen=True, kw_only=True):
    """What a watcher looked at in all its steps, and what it said.

    ``own_overhead_share``: what it says that it costs, None where it says nothing.
    """

    ops: tuple[OpSeen, ...]
    num_alarms: int
    num_errors: int
    messages: tuple[str, ...]
    own_overhead_share: float | None

    def share(self, asked_only: bool = True) -> float | None:
        """Checked calls over all calls; None without calls."""
        ops = [op for op in self.ops if op.is_asked or not asked_only]
        num_calls = sum(op.calls for op in ops)
        return sum(op.calls_checked for op in ops) / num_calls if num_calls else None


class StepCost(Record, frozen=True, kw_only=True, tag="step"):
    """Training steps under one watcher.

    ``step_ms``: of a step, one value per turn of ``steps_per_turn``.  ``ratio``: median over rounds
    of this watcher's over the plain step's time in the same round.  ``total_ratio``: all of its
    time over all of the plain time, per step, which counts rare expensive steps in full.
    """

    watcher: str
    description: str
    steps_per_turn: int
    warmup_steps: int
    num_rounds: int
    step_ms: Interval
    ratio: Interval
    total_ratio: Interval
    seen: Seen


Figure = Device | Clocks | Copy | ProductCost | CallCost | StepCost


class Missing(Record, frozen=True, kw_only=True):
    """A figure that there is not, and why."""

    name: str
    reason: str


class Named(Record, frozen=True, kw_only=True):
    """A figure under the name by which the page and :class:`Missing` know it."""

    name: str
    figure: Figure


class GpuFile(Record, frozen=True, kw_only=True):
    """``kernels.json``.  ``form`` is ``full`` or ``tiny``; ``model`` describes the GPT."""

    stamp: Stamp
    device: str
    form: str
    model: str
    limit_s: float
    elapsed_s: float
    figures: tuple[Named, ...]
    missing: tuple[Missing, ...]
