"""On a device the pieces of a relation are compared by our kernel: the same answers as on a CPU,
without aten's comparisons.  A switch lets the interpreter take that branch on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits, device_bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.compiling import compile_symmetry
from sdc_guard.check.relations import Piece
from sdc_guard.ops import lookup
from sdc_guard.ops._symmetry import RERUN, Symmetry, flat, negate, roll, split
from tests.kernels.strided_bits import COMPLEX, DTYPES, FLOATS, drawn_words, laid_out, layouts

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import bit_compare
from sdc_guard_kernels.bit_compare import Difference

aten = torch.ops.aten
COMPARISONS = {"eq", "ne", "equal", "isnan", "where", "neg", "neg_", "bitwise_and", "bitwise_or"}


@contextmanager
def by_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_bits, "has_kernels", lambda tensor: True)
        yield


class Called(TorchDispatchMode):
    """The names of the aten operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    negated = dtype in FLOATS + COMPLEX and draw(st.booleans())
    seed, length = draw(st.integers(0, 2**32)), shape[0] if shape else 0
    where = (0, draw(st.integers(0, 2)), length) if shape and draw(st.booleans()) else None
    whole = (shape[0] + 2, *shape[1:]) if where else shape
    words = drawn_words(dtype, int(np.prod(whole, dtype=int)), seed)
    held = laid_out(words, dtype, whole, **draw(layouts(len(shape))))
    part = held if where is None else held.narrow(*where)
    got = torch.empty(shape, dtype=dtype)
    right = np.array(bits.raw(part), order="C")
    np.copyto(bits.raw(got), right)
    if negated:
        got.neg_()
    flat_bytes = bits.raw(got.reshape(-1).view(torch.uint8))
    for _ in range(draw(st.integers(0, 2))):
        flat_bytes[draw(st.integers(0, len(flat_bytes) - 1))] ^= draw(st.sampled_from([1, 0x80]))
    if dtype is torch.bool:
        flat_bytes &= 1
    return Piece(0, got, held, where, negated)


@settings(max_examples=25)
@given(pieces())
def test_a_kernel_and_the_host_agree_on_pieces(piece: Piece) -> None:
    def fresh() -> Piece:
        return Piece(0, bits.snapshot(piece.got), piece.whole, piece.where, piece.negated)

    agrees, wrong = fresh().agrees(), fresh().wrong()
    with by_kernel():
        other = fresh()
        before = bits.snapshot(other.got)
        assert other.agrees() is agrees
        assert np.array_equal(other.wrong(), wrong)
        # Nothing was undone in memory; what is undone later is compared with the same answer.
        assert np.array_equal(bits.raw(before), bits.raw(other.got))
        if other.got.dtype.itemsize != 1:
            other.undone()
        assert other.agrees() is agrees
        assert np.array_equal(other.wrong(), wrong)


@pytest.mark.parametrize("negated", [False, True])
def test_no_aten_comparison_runs(negated: bool) -> None:
    held = torch.tensor([[1.0, -0.0, torch.nan], [2.0, 0.0, 3.0]]).t()
    got = -held if negated else held.clone()
    bits.raw(got)[2, 0] ^= 1  # another payload
    piece = Piece(0, got, held, None, negated)
    with by_kernel(), Called() as kernel:
        assert piece.agrees()
        assert not piece.wrong().any()
        assert bits.bits_equal(held, held)
        assert not bits.bits_equal(held, got)
    assert not kernel.names & COMPARISONS
    with Called() as host:
        assert piece.agrees()
    assert host.names & COMPARISONS


CASES: dict[str, tuple[Any, tuple[Any, ...], Symmetry]] = {
    "roll": (aten.mm.default, (torch.ones(9, 4).cumsum(0), torch.ones(4, 3).cumsum(1)), roll("m")),
    "split": (aten.mul.Tensor, (torch.arange(12.0).view(6, 2), torch.ones(2)), split("d0")),
    "flat": (aten.add.Tensor, (torch.arange(9.0), torch.arange(9.0)), flat()),
    "negate": (aten.sum.dim_IntList, (torch.arange(12.0).view(3, 4) - 6, [0]), negate("self")),
    "rerun": (aten.sqrt.default, (torch.arange(5.0) - 1,), RERUN),
}


@pytest.mark.parametrize("name", CASES)
def test_relations_pass_and_see_each_flip_by_the_kernel(name: str) -> None:
    op, args, symmetry = CASES[name]
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    held = call.run()
    spec = lookup(form.packet)
    assert spec is not None
    relation = compile_symmetry(symmetry, call, held, spec.axes(call, held))
    assert relation is not None
    with by_kernel():
        assert all(p.agrees() for p in relation.run(call, held, 0))
        for index in range(held[0].numel()):
            image = bits.snapshot(held[0])
            bits.raw(image).reshape(-1)[index] ^= 1
            # A payload of a NaN is nobody's mistake.
            seen = not bool(held[0].reshape(-1)[index].isnan())
            broken = [p for p in relation.run(call, (image,), 0) if not p.agrees()]
            assert bool(broken) is seen, (name, index)


def test_bits_of_two_tensors_by_the_kernel() -> None:
    a = torch.tensor([1.0, torch.nan, 0.0, -2.0])
    b = bits.snapshot(a)
    bits.raw(b)[1] ^= 1
    with by_kernel():
        assert bits.bits_equal(a, a.clone())
        assert not bits.bits_equal(a, b)
        assert bits.wrong_mask(a, b).tolist() == [False, True, False, False]
        with pytest.raises(ValueError, match="cannot be compared"):
            bits.bits_equal(a, b[:3])
        # Of tensors that only broadcast against each other, NumPy still says where they differ.
        assert bits.wrong_mask(a, b[:1]).tolist() == [False, True, True, True]


@pytest.fixture
def _asked_again() -> Iterator[None]:
    device_bits.kernels_work.cache_clear()
    yield
    device_bits.kernels_work.cache_clear()


def _never_different(got: Tensor, held: Tensor) -> Difference:
    return Difference(0, 0)


def _no_compiler(got: Tensor, held: Tensor) -> Difference:
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.usefixtures("_asked_again")
def test_a_kernel_is_used_where_it_sees_a_flipped_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not device_bits.has_kernels(torch.ones(1))
    here = torch.device("cpu")  # where the interpreter runs
    assert device_bits.kernels_work(here)
    for blind in (_never_different, _no_compiler):
        device_bits.kernels_work.cache_clear()
        monkeypatch.setattr(bit_compare, "difference", blind)
        assert not device_bits.kernels_work(here)
    monkeypatch.undo()
    device_bits.kernels_work.cache_clear()
    monkeypatch.setattr(device_bits, "find_spec", lambda name: None if name == "triton" else name)
    assert not device_bits.kernels_work(here)


@pytest.mark.gpu
@pytest.mark.parametrize("negated", [False, True])
def test_pieces_on_the_device(negated: bool) -> None:
    held = torch.randn(300, 70, generator=torch.Generator().manual_seed(2)).cuda().t()
    part = held[3:60]
    got = -part.contiguous() if negated else part.contiguous()
    assert Piece(0, got, held, (0, 3, 57), negated).agrees()
    assert device_bits.has_kernels(got)
    wrong = got.clone()
    wrong[56, 299] *= 1.0000002
    piece = Piece(0, wrong, held, (0, 3, 57), negated)
    assert not piece.agrees()
    assert np.flatnonzero(piece.wrong()).tolist() == [56 * 300 + 299]
