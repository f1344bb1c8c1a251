"""All measurements, in their order.

Calls come before steps, because they compile the kernels one by one, each within its own figure;
the compiled code is on disk when the steps begin.
"""

from __future__ import annotations

from sdc_guard.bench.gpu import bandwidth, call_costs, device, product, steps
from sdc_guard.bench.gpu.job import Job

JOBS = (
    Job("device", device.measure, device.expected, until=1.0),
    Job("copies", bandwidth.measure, bandwidth.expected, until=0.1),
    Job("bf16 product", product.measure_first, product.expected_first, until=0.2),
    Job("calls", call_costs.measure, call_costs.expected, until=0.5),
    Job("steps", steps.measure, steps.expected, until=0.88),
    Job("other products", product.measure_others, product.expected_others, until=0.97),
)
"""``until``: what a job leaves of its time goes to the next ones."""
