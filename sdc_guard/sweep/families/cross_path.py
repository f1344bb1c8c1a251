"""F6: one product on every path that the machine has, with one right answer.

The operands are those of F1 and F2, so that each path must give the same bits whatever its order of
addition; the answer comes from integers.  Which paths are wrong says which unit is, or which
library.  The same again with the instruction sets of CPUs capped: the caps are read by torch,
oneDNN and MKL when their first operator runs, and not again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from sdc_guard.evidence import machine
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
    refusal,
)
from sdc_guard.sweep.exact import LAYOUTS, encode_integers
from sdc_guard.sweep.families._product_paths import (
    HALF,
    IN_AMX,
    ON_CPU,
    ON_CUDA,
    TENSOR_CORES,
    Path,
    Paths,
)
from sdc_guard.sweep.families.exact_full_mantissa import carries, one_product
from sdc_guard.sweep.families.exact_product import RESULTS, integers, largest_operand, product
from sdc_guard.sweep.placed import placed

SHAPE_CORE, SHAPE_GPU = (48, 96, 64), (128, 512, 192)
SHAPES = {"python_loop": (12, 24, 16), "mv": (48, 96, 16)}
INT64_LARGEST = 2**27
"""Sums of 512 products of such integers are below 2^63."""
LARGEST = {"float32": 2**11, "int8": 63}
"""So that TF32 holds the operands, and that two products of bytes fit in the saturating 16-bit
sums by which oneDNN multiplies on CPUs without VNNI: 2 (63 + 128) 63 < 2^15."""
INTEGERS, CARRIES, PRODUCTS = "integers", "carries", "products"

Shape = tuple[int, int, int]


def _operands(
    data: str, dtype: str, shape: Shape, random: np.random.Generator
) -> tuple[Bits, Bits, Bits]:
    """Bits of A, B and C."""
    if data != INTEGERS:
        terms = (carries if data == CARRIES else one_product)(random, dtype, *shape)
        return terms.left.bits(dtype), terms.right.bits(dtype), terms.product.bits(dtype)
    rows, length, columns = shape
    largest = INT64_LARGEST if dtype == "int64" else largest_operand(dtype, length)
    largest = min(largest, LARGEST.get(dtype, largest))
    a_MK = integers(random, (rows, length), largest)
    b_KN = integers(random, (length, columns), largest)
    return (encode_integers(a_MK, dtype), encode_integers(b_KN, dtype),
            encode_integers(product(a_MK, b_KN), RESULTS.get(dtype, dtype)))


def _make(path: Path, data: str, dtype: str, shape: Shape, random: np.random.Generator,
          place: Place) -> Made:
    a_MK, b_KN, c_MN = _operands(data, dtype, shape, random)
    try:
        run = path(placed(a_MK, dtype, place.device), placed(b_KN, dtype, place.device))
        first = run()
    except (RuntimeError, NotImplementedError) as error:
        raise refusal(f"no such path for {dtype}: ", error) from error
    return Made(
        run=lambda: (run(),), expected=(c_MN,), inputs=(a_MK, b_KN),
        flops=2 * shape[0] * shape[1] * shape[2],
        num_bytes=a_MK.nbytes + b_KN.nbytes + c_MN.nbytes, trial=[(first,)])


def cases(place: Place) -> Sequence[Case]:
    """Every path with every dtype that it takes."""
    if place.kind == GPU:
        return tuple(_cases(ON_CUDA, SHAPE_GPU))
    return tuple(_cases(ON_CPU, SHAPE_CORE))


def amx_cases(place: Place) -> Sequence[Case]:
    """The paths that use tiles."""
    return tuple(_cases(IN_AMX, (64, 128, 96)))


def _cases(paths: Paths, usual: Shape) -> Iterator[Case]:
    for name, (path, dtypes) in paths.items():
        shape = SHAPES.get(name, usual)
        for dtype in dtypes:
            for data in _data(name, dtype):
                yield Case(
                    label=f"{name} {data} {dtype} {'x'.join(map(str, shape))}", op=name,
                    dtype=RESULTS.get(dtype, dtype), shape=(shape[0], shape[2]),
                    make=partial(_make, path, data, dtype, shape))


def _data(path: str, dtype: str) -> tuple[str, ...]:
    """Integers where every accumulator is known to hold their sums.  TF32 holds integers alone."""
    if dtype not in LAYOUTS or (path == TENSOR_CORES and dtype == "float32"):
        return (INTEGERS,)
    return (CARRIES if dtype in HALF else INTEGERS, PRODUCTS)


def _needs(*sets: str) -> Callable[[Place], str]:
    """A reason to skip where the CPU lacks one of these instruction sets, by the kernel's names."""

    def skip(place: Place) -> str:
        missing = set(sets) - set(machine.cpu().get("isa", "").split())
        return f"this CPU has no {', '.join(sorted(missing))}" if missing else ""

    return skip


def _capped(name: str, needs: tuple[str, ...], caps: dict[str, str], what: str) -> SweepTest:
    return SweepTest(
        name=name, family="F6", oracles=(Oracle.EXACT, Oracle.CROSS), kinds=(CORE,),
        blames="core, and of its units those that one instruction set uses",
        dtypes=("float64", "float32", *HALF, "int8", "int64"), dwell_s=2.0, proves=f"Products "
        f"came out right to the last bit on every path of this CPU {what}.",
        cannot_prove="That a library uses the instructions that its cap allows is its own word; "
        "MKL heeds a cap on Intel's CPUs alone, but for its compatible branch.",
        cases=cases, skip=_needs(*needs), environments=(tuple(caps.items()),))


TESTS = (
    SweepTest(
        name="cross_path", family="F6", oracles=(Oracle.EXACT, Oracle.CROSS),
        kinds=(CORE, GPU, HOST), blames="core or GPU, and of its units those that one path uses",
        dtypes=("float64", "float32", *HALF, "int8", "int64"), dwell_s=2.0,
        proves="Products came out right to the last bit on every path: MKL, oneDNN, NumPy's BLAS, "
        "vector loops and scalar loops on a CPU, tensor cores and CUDA cores on a GPU.",
        cannot_prove="Paths need not use the same units for the same data; sizes that libraries "
        "hand to other kernels are not covered.",
        cases=cases),
    _capped("cross_path_baseline", ("avx2",), {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE"}, "without its wide vectors: SSE alone"),
    _capped("cross_path_avx2", ("avx2",), {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, "with vectors of 256 bits"),
    _capped("cross_path_avx512", ("avx512f", "avx512bw"), {
        "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
        "with vectors of 512 bits and without instructions for bfloat16, int8 or tiles"),
    SweepTest(
        name="cross_path_amx", family="F6", oracles=(Oracle.EXACT,), kinds=(CORE,),
        blames="core, its tile unit", dtypes=("bfloat16", "int8"), dwell_s=1.0,
        proves="Products by oneDNN on a CPU with AMX, in bfloat16 and int8, came out right to the "
        "last bit.",
        cannot_prove="That oneDNN used tiles for a given product is its own choice.",
        cases=amx_cases, skip=_needs("amx_tile")),
)
