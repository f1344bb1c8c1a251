"""Operators that end, stop or starve their process: registered where this module is imported."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("hostile", "DEF")
_LIBRARY.define("segfault(Tensor x) -> Tensor")
_LIBRARY.define("hang(Tensor x) -> Tensor")
_LIBRARY.define("greedy(Tensor x) -> Tensor")


def _segfault(x: Tensor) -> Tensor:
    if x.numel() and float(x.reshape(-1)[0]) > 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    return x.clone()


def _hang(x: Tensor) -> Tensor:
    if x.numel() and float(x.reshape(-1)[0]) > 0:
        time.sleep(3600)
    return x.clone()


def _greedy(x: Tensor) -> Tensor:
    torch.empty(1 << 36, dtype=torch.uint8)
    return x.clone()


for _name, _kernel in (("segfault", _segfault), ("hang", _hang), ("greedy", _greedy)):
    _LIBRARY.impl(_name, _kernel, "CPU")
