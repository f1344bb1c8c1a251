"""A core that computes wrong numbers: aten kernels that damage what they return, on that core only.

Independent of sdc_guard, and of torch where it damages: memory is changed through NumPy.  Runs in
the process under test, from ``sitecustomize.py``.
"""

import ctypes
import json
import mmap
import multiprocessing
import os
import random
import signal
import struct
import time

import numpy as np

CALLS, STRUCK, SLOT = 0, 8, 16
"""In a process's file of counts each kernel has a slot: calls on the core, and those whose result
was changed."""
NUM_LANES = 16
STRETCH = 8
_libc = ctypes.CDLL(None)
_state = {"pid": 0}


def plant(text):
    """Override the kernels of ``ops`` in this process and in all that are forked from it.

    ``text`` is JSON: ``core``; ``ops``, names such as ``mm.default``; ``kind`` of KINDS; ``rate``,
    the chance per call; ``seed``; ``counts``, a folder where each process leaves its counts.
    """
    import torch

    fault = json.loads(text)
    library = torch.library.Library("aten", "IMPL")
    for number, name in enumerate(fault["ops"]):
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None:
            kernel = torch.library.get_kernel(op, "CPU")
            library.impl(f"{packet}.{overload}" if overload != "default" else packet,
                         _faulty(kernel, op._schema, fault, SLOT * number), "CPU", with_keyset=True,
                         allow_override=True)
    _state["library"] = library  # what it registered lives as long as it does


def _faulty(kernel, schema, fault, slot):
    import torch

    damage, rate, core = KINDS[fault["kind"]], fault["rate"], fault["core"]
    tensors = [n for n, a in enumerate(schema.arguments)
               if str(a.type) == "Tensor" and not a.kwarg_only]
    # A number that stands for a tensor (``x * 0.5``) comes here as a number, and the kernel below
    # takes none.
    dtypes = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}

    def call(keys, *args, **kwargs):
        numbers = [n for n in tensors if n < len(args) and type(args[n]) in dtypes]
        if numbers:
            args = list(args)
            for n in numbers:
                args[n] = torch.tensor(args[n], dtype=dtypes[type(args[n])])
        results = kernel.call_boxed(keys, *args, **kwargs)
        if _libc.sched_getcpu() != core:
            return results
        if _state["pid"] != os.getpid():
            _begin(fault)
        counts, draw = _state["counts"], _state["random"]
        _add(counts, slot + CALLS)
        if rate >= 1 or draw.random() < rate:
            changed = False
            for result in results if isinstance(results, (tuple, list)) else (results,):
                changed = _struck(result, damage, draw) or changed
            if changed:
                _add(counts, slot + STRUCK)
        return results

    return call


def _begin(fault):
    """In each process: counts of its own, and draws that its name and the seed decide."""
    name = multiprocessing.current_process().name
    path = os.path.join(fault["counts"], f"{os.getpid()} {name}")
    with open(path, "wb+") as file:
        file.write(bytes(SLOT * len(fault["ops"])))
        file.flush()
        counts = mmap.mmap(file.fileno(), 0)
    _state.update(pid=os.getpid(), counts=counts, random=random.Random(f"{fault['seed']} {name}"))


def _add(counts, place):
    struct.pack_into("q", counts, place, struct.unpack_from("q", counts, place)[0] + 1)


def _struck(result, damage, draw):
    """Whether a result was changed in any bit."""
    if not hasattr(result, "data_ptr") or result.device.type != "cpu" or not result.numel():
        return False
    size = result.element_size()
    if size > 8 or str(result.dtype) == "torch.bool":
        return False
    strides = [step * size for step in result.stride()]
    length = size + sum(step * (n - 1) for step, n in zip(strides, result.shape, strict=True))
    memory = (ctypes.c_uint8 * length).from_address(result.data_ptr())
    bits = np.lib.stride_tricks.as_strided(
        np.frombuffer(memory, f"u{size}", 1), tuple(result.shape), strides)
    return damage(bits, draw)


def _flipped(bits, draw, bit):
    place = np.unravel_index(draw.randrange(bits.size), bits.shape)
    bits[place] ^= bits.dtype.type(1 << bit)
    return True


def _low(bits, draw):
    return _flipped(bits, draw, 0)


def _high(bits, draw):
    return _flipped(bits, draw, 8 * bits.itemsize - 2)


def _sign(bits, draw):
    return _flipped(bits, draw, 8 * bits.itemsize - 1)


def _lane(bits, draw):
    """One bit of one lane of 16 is always 1."""
    places = np.unravel_index(np.arange(5 % min(NUM_LANES, bits.size), bits.size, NUM_LANES),
                              bits.shape)
    was = bits[places]
    bits[places] = was | bits.dtype.type(1 << (4 * bits.itemsize))
    return bool((bits[places] != was).any())


def _offset(bits, draw):
    """A stretch of elements holds what belongs to their neighbours."""
    stretch = min(STRETCH, bits.size - 1)
    first = draw.randrange(bits.size - stretch)
    to = np.unravel_index(np.arange(first, first + stretch), bits.shape)
    neighbours = np.unravel_index(np.arange(first + 1, first + 1 + stretch), bits.shape)
    was, bits[to] = bits[to], bits[neighbours]
    return bool((bits[to] != was).any())


def _raises(bits, draw):
    raise RuntimeError("this core cannot do that")


def _segfault(bits, draw):
    ctypes.string_at(0)


def _hang(bits, draw):
    time.sleep(3600)


def _killed(bits, draw):
    os.kill(os.getpid(), signal.SIGKILL)


KINDS = {"low bit": _low, "high bit": _high, "sign": _sign, "stuck lane": _lane,
         "wrong offset": _offset, "raises": _raises, "segfault": _segfault, "hang": _hang,
         "killed": _killed}
