"""F12: copies of large memory whose content is known in closed form: contiguous, strided,
transposed, joined, turned, converted in layout, to a device and back; and checksums over much
memory.

Elements encode their own index, so that a piece from another place shows.  The CRC of a repeated
block follows from polynomials over GF(2) in Python's integers (``sweep/checksums.py``); the SHA
digests are those that FIPS 180's examples give for a million letters "a".
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from sdc_guard.sweep.checksums import crc32_of_doubled
from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Bits,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import tensor_of
from sdc_guard.sweep.families._exact_case import exact, index_code

DTYPES = ("float32", "bfloat16", "int64", "int8")
SHAPE_CORE, SHAPE_GPU = (768, 1024), (4096, 4096)
BLOCK_BYTES, DOUBLINGS = 4096, 10
SHA = {
    "sha1": "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
    "sha256": "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    "sha512": "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
              "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b",
}
"""Of a million letters "a" (FIPS 180-2, appendices A.3, B.3 and C.3)."""
NUM_LETTERS = 1_000_000

COPIES: tuple[tuple[str, str, Callable[[Tensor], Tensor], Callable[[Bits], Bits]], ...] = (
    ("clone", "aten.clone", torch.clone, lambda b: b),
    ("transposed", "aten.clone", lambda t: t.t().contiguous(), lambda b: b.T),
    ("every second column", "aten.clone", lambda t: t[:, ::2].contiguous(), lambda b: b[:, ::2]),
    ("unaligned part", "aten.clone", lambda t: t[1:, 3:].contiguous(), lambda b: b[1:, 3:]),
    ("joined halves", "aten.cat",
     lambda t: torch.cat([t[len(t) // 2:], t[:len(t) // 2]]),
     lambda b: np.concatenate([b[len(b) // 2:], b[:len(b) // 2]])),
    ("joined columns", "aten.cat", lambda t: torch.cat([t[:, 5:], t[:, :5]], 1),
     lambda b: np.concatenate([b[:, 5:], b[:, :5]], 1)),
    ("rolled", "aten.roll", lambda t: t.roll((7, 13), (0, 1)),
     lambda b: np.roll(b, (7, 13), (0, 1))),
    ("flipped", "aten.flip", lambda t: t.flip(0, 1), lambda b: b[::-1, ::-1]),
    ("repeated", "aten.repeat", lambda t: t[:, :64].repeat(1, 3),
     lambda b: np.tile(b[:, :64], (1, 3))),
    ("stacked", "aten.stack", lambda t: torch.stack([t[0::2], t[1::2]], 1),
     lambda b: np.stack([b[0::2], b[1::2]], 1)),
    ("written into strides", "aten.copy_", lambda t: _spread(t), lambda b: b),
)


def _spread(source: Tensor) -> Tensor:
    """Through a buffer with twice the row length."""
    wide = source.new_zeros(source.shape[0], 2 * source.shape[1])
    wide[:, 1::2].copy_(source)
    return wide[:, 1::2].contiguous()


def _to_device_and_back(source: Tensor) -> Tensor:
    return source.cpu().pin_memory().to(source.device, non_blocking=True)


ON_CUDA = (("device to host and back", "aten._to_copy", _to_device_and_back, lambda b: b),)


def _make(
    copy: Callable[[Tensor], Tensor], right: Callable[[Bits], Bits], dtype: str,
    shape: tuple[int, int], random: np.random.Generator, place: Place,
) -> Made:
    bits = index_code(prod(shape), dtype, int(random.integers(0, 1 << 20))).reshape(shape)
    source = tensor_of(bits, dtype, place.device)
    return exact(lambda: (copy(source),), (np.ascontiguousarray(right(bits)),), (bits,))


def _crc(random: np.random.Generator, place: Place) -> Made:
    """4 MiB: a drawn block that is doubled; a byte's error changes the CRC, an exchange of equal
    blocks does not."""
    block = random.bytes(BLOCK_BYTES)
    data = block * (1 << DOUBLINGS)
    expected = np.array([crc32_of_doubled(block, DOUBLINGS)], np.uint32)
    return exact(lambda: (np.array([zlib.crc32(data)], np.uint32),), (expected,),
                 (np.frombuffer(block, np.uint8),), num_checks=len(data))


def _sha(name: str, random: np.random.Generator, place: Place) -> Made:
    data = _letters()
    right = np.frombuffer(bytes.fromhex(SHA[name]), np.uint8)
    return exact(
        lambda: (np.frombuffer(bytearray(hashlib.new(name, data).digest()), np.uint8),),
        (right,), num_checks=len(data))


@cache
def _letters() -> bytes:
    return b"a" * NUM_LETTERS


def cases(place: Place) -> Sequence[Case]:
    """Every kind of copy in every width of element; on cores, checksums."""
    on_gpu = place.kind == GPU
    shape = SHAPE_GPU if on_gpu else SHAPE_CORE
    found = [
        Case(label=f"{name} {dtype} {shape[0]}x{shape[1]}", op=op, dtype=dtype,
             shape=right(np.empty(shape, np.int8)).shape,
             make=partial(_make, copy, right, dtype, shape))
        for name, op, copy, right in (*COPIES, *(ON_CUDA if on_gpu else ())) for dtype in DTYPES]
    if not on_gpu:
        found.append(Case(label="crc32 of 4 MiB", op="zlib.crc32", dtype="int32", shape=(1,),
                          make=_crc))
        found += [Case(label=f"{name} of a million letters", op=f"hashlib.{name}", dtype="uint8",
                       shape=(len(digits) // 2,), make=partial(_sha, name))
                  for name, digits in SHA.items()]
    return found


TESTS = (SweepTest(
    name="copies", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=DTYPES, dwell_s=2.0,
    proves="Megabytes of content known in closed form were copied, turned, joined and strided "
    "without one changed or misplaced element, and checksums over megabytes came out right.",
    cannot_prove="Copies between hosts or between GPUs, and layouts not run, are not covered; CRC "
    "and SHA values say that something differs, not where.",
    cases=cases),)
