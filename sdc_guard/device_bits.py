"""Bits that lie on a device, compared by our own kernel: no aten comparison, no copy, one wait.

The kernel (``sdc_guard_kernels.bit_compare``) undoes a symmetry as it reads.  It is used where it
is seen to work; elsewhere (no triton, no C compiler for its launchers, a device that triton does
not know) torch compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def has_kernels(tensor: Tensor) -> bool:
    """True where our kernels look at the tensor's bits: on a CUDA device on which one of them has
    seen a flipped bit."""
    return tensor.device.type == "cuda" and kernels_work(tensor.device)


@cache
def kernels_work(device: torch.device) -> bool:
    """True if the comparison sees the one bit that differs, and nothing else."""
    if find_spec("triton") is None or find_spec("sdc_guard_kernels") is None:
        return False
    from sdc_guard_kernels.bit_compare import Difference, difference

    right = torch.tensor([1, 2, 3], dtype=torch.int32, device=device)
    wrong = torch.tensor([1, 2, 3 | 1 << 30], dtype=torch.int32, device=device)
    try:
        with launching_on(right):
            answers = [difference(right, right), difference(wrong, right)]
    except Exception:  # whatever stops triton from compiling here: torch still compares
        return False
    return answers == [Difference(0, 0), Difference(1, 2)]


def is_capturing() -> bool:
    """True while this thread's stream records a CUDA graph: who waits there ends the capture, and
    what is launched belongs to the graph.  Asks nobody where CUDA is not in use (and in a fork)."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@contextmanager
def launching_on(tensor: Tensor) -> Iterator[None]:
    """Triton launches on the current device, which need not be the tensor's."""
    if tensor.device.type == "cuda":
        with torch.cuda.device(tensor.device):
            yield
    else:
        yield


def bits_equal(
    got: Tensor, held: Tensor, *, negated: bool = False, nans_alike: bool = False,
    zeros_alike: bool = False,
) -> bool:
    """True if two tensors of one shape and dtype hold the same bits: ``got`` with its sign changed
    if it is ``negated``, NaNs of any payload or zeros of any sign alike if asked.

    Raises:
        ValueError: shapes, dtypes or devices differ, or the dtype has no sign that is known.
    """
    from sdc_guard_kernels.bit_compare import Undo, difference

    undo = Undo(negated=negated, nans_alike=nans_alike, zeros_alike=zeros_alike)
    with launching_on(got):
        return not difference(got, held, undo).num_different


def wrong_mask(
    got: Tensor, held: Tensor, *, negated: bool = False, nans_alike: bool = False,
    zeros_alike: bool = False,
) -> NDArray[np.bool_]:
    """True where the elements differ, in the sense of :func:`bits_equal`, which raises the same."""
    from sdc_guard_kernels.bit_compare import Undo, difference_mask

    undo = Undo(negated=negated, nans_alike=nans_alike, zeros_alike=zeros_alike)
    with launching_on(got):
        return np.asarray(difference_mask(got, held, undo).cpu().numpy() != 0)
