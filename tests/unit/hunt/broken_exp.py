"""``exp`` that loses its last element where there are more than eight: broken by the import."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard.inject import KernelOverride


def _lost(info: Any, results: tuple[Tensor, ...]) -> None:
    made = results[0]
    if made.dim() == 1 and made.numel() > 8 and made.is_floating_point():
        made[-1] = 0


OVERRIDE = KernelOverride(torch.ops.aten.exp.default, _lost)
OVERRIDE.__enter__()
