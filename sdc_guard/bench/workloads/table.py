"""Every workload by its name, and what training has made of one: the loss on held-out batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import HELD_OUT
from sdc_guard.bench.workloads.gnn import build_gnn
from sdc_guard.bench.workloads.gpt import build_gpt
from sdc_guard.bench.workloads.lstm import build_lstm
from sdc_guard.bench.workloads.moe import build_moe
from sdc_guard.bench.workloads.resnet import build_resnet
from sdc_guard.bench.workloads.unet import build_unet
from sdc_guard.bench.workloads.user import load_workload
from sdc_guard.errors import UsageError

__all__ = ["DTYPES", "WORKLOADS", "build_workload", "held_out_loss", "load_workload"]

WORKLOADS: dict[str, Callable[..., Workload]] = {
    "gpt-tiny": partial(build_gpt, "tiny"),
    "gpt-demo": partial(build_gpt, "demo"),
    "resnet": build_resnet,
    "lstm": build_lstm,
    "unet": build_unet,
    "moe": build_moe,
    "gnn": build_gnn,
}
"""Each takes the keywords ``autocast``, ``seed`` and ``device``."""

DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""Name of a dtype to that of the autocast; parameters are float32 with each."""

HELD_OUT_BATCHES = 8


def build_workload(
    name: str, dtype: str, seed: int, device: torch.device | str = "cpu"
) -> Workload:
    """A workload of :data:`WORKLOADS` at step 0; parameters, batches and losses are the same
    numbers for the same arguments, whatever was drawn before.

    ``dtype`` is a key of :data:`DTYPES`.  Model and batches are on ``device``; their first numbers
    do not depend on it.  The global random state is left as it was.

    Raises:
        UsageError: for an unknown ``name`` or ``dtype``, a negative ``seed``, or a CUDA ``device``
            where torch sees none.
    """
    if name not in WORKLOADS:
        raise UsageError(f"unknown workload {name!r}; known: {', '.join(WORKLOADS)}")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if seed < 0:
        raise UsageError(f"seed is {seed} and must be at least 0")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {str(device)!r}: torch sees no CUDA device here; use 'cpu'")
    return WORKLOADS[name](autocast=DTYPES[dtype], seed=seed, device=place)


@torch.no_grad()
def held_out_loss(workload: Workload, num_batches: int = HELD_OUT_BATCHES) -> float:
    """Mean loss on the ``num_batches`` batches from ``HELD_OUT`` on, in the unit of the loss
    (nats, or squared noise for the U-Net).

    The loss of training, under its autocast, with the model in evaluation mode; each batch's loss
    is read as a Python float (float64) and added there.  It changes nothing in the workload, nor
    its ``step_number``.

    Raises:
        UsageError: if ``num_batches`` is below 1.
    """
    if num_batches < 1:
        raise UsageError(f"num_batches is {num_batches} and must be at least 1")
    modes = [(module, module.training) for module in workload.model.modules()]
    workload.model.eval()
    try:
        with workload.autocasting():
            losses = [workload.loss(workload.model, workload.batch(HELD_OUT + n)).item()
                      for n in range(num_batches)]
    finally:
        for module, was_training in modes:
            module.training = was_training
    return sum(losses) / num_batches
