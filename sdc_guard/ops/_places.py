"""Where an elementwise kernel computes an element, and what may therefore be moved.

On a CPU most elementwise kernels give an element the same bits wherever it stands; that was seen
for every op here that is not marked ``tail_sensitive`` (torch 2.13; AVX-512, AVX2 and baseline
code; fp64, fp32, bf16, fp16, 1 and 2 threads, 3 to 70,001 elements: rolled, strided and offset
operands).  The marked ones compute the last elements of each thread's share, and all elements of
strided operands, with other code than the vector body, up to some ulps apart; their relations keep
each element on its side (``at::native::vectorized_loop``: body in multiples of two vectors, at most
64 elements; ``at::parallel_for``: shares of ``ceil(n / threads)`` elements, at least 32768).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._symmetry import (
    OUTERMOST,
    RERUN,
    Move,
    Symmetry,
    double,
    flat,
    negate,
    roll,
    split,
)

GRAIN_SIZE = 32768
"""Elements below which ``at::parallel_for`` does not divide an elementwise kernel."""

BODY_MULTIPLE = 64
"""Two vectors of the widest kind: 2 x 32 bf16 lanes of AVX-512."""



def share_ends(numel: int, threads: int) -> list[int]:
    """Where ``at::parallel_for`` ends the share of each thread of an elementwise kernel."""
    used = max(1, min(threads, -(-numel // GRAIN_SIZE)))
    share = -(-numel // used)
    return [min(numel, share * (i + 1)) for i in range(used) if share * i < numel]


def keeps_tails(numel: int, threads: int) -> bool:
    """True if the engine's flat splits (at multiples of 64 near a half and a third) leave every
    element in the vector body or in the scalar tail that it is in."""
    if numel <= 3 * BODY_MULTIPLE:
        return False
    cuts = [numel // k // BODY_MULTIPLE * BODY_MULTIPLE for k in (2, 3)]
    sizes = [numel, *cuts, *(numel - cut for cut in cuts)]
    inner = [end for n in sizes for end in share_ends(n, threads)[:-1]]
    return all(end % BODY_MULTIPLE == 0 for end in inner)


def one_layout(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """True if results and all operands with dimensions are dense and laid out alike."""
    layouts = {(tuple(t.shape), t.stride()) for t in held}
    layouts |= {(tuple(t.shape), t.stride()) for _, t in call.tensors() if t.dim()}
    return len(layouts) == 1 and all(bits.is_dense(t) for t in held)


def _vector_call(call: BoundCall, start: int, length: int) -> BoundCall:
    """The call on a stretch of its dense operands taken as vectors."""

    def stretch(_: Any, t: Tensor) -> Tensor:
        return t.as_strided((length,), (1,), t.storage_offset() + start) if t.dim() else t

    return call.mapped(stretch)


def in_shares(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The call again in pieces of at most 32768 elements, on views and in the other order.

    The pieces start at multiples of 64 within each thread's share and end where it ends, so every
    element stays in its kernel's vector body or scalar tail.  Dense operands of one layout only.
    """
    operands = [t for _, t in call.tensors() if t.dim()]
    first = operands[0]
    numel = first.numel()
    pieces: list[tuple[int, int]] = []
    begin = 0
    for end in share_ends(numel, torch.get_num_threads()):
        size = min(GRAIN_SIZE, max(BODY_MULTIPLE, (end - begin) // 2 // BODY_MULTIPLE
                                   * BODY_MULTIPLE))
        pieces += [(s, min(size, end - s)) for s in range(begin, end, size)]
        begin = end
    image: Tensor | None = None
    for start, length in reversed(pieces):
        part = _vector_call(call, start, length).run()[0]
        if image is None:
            image = torch.empty_strided(first.shape, first.stride(), dtype=part.dtype,
                                        device=part.device)
        image.as_strided((length,), (1,), start).copy_(part)
    assert image is not None
    return (image,)


def beside(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The call on vectors in which the operands follow copies of their first element, as many as
    a multiple of 64: other addresses, the same distance from the tail."""
    lead = BODY_MULTIPLE * (1 + visit % 3)
    sizes = [t for _, t in call.tensors() if t.dim()]
    first = sizes[0]
    numel = first.numel()

    def led(_: Any, t: Tensor) -> Tensor:
        if not t.dim():
            return t
        vector = t.as_strided((numel,), (1,), t.storage_offset())
        return torch.cat([vector[:1].expand(lead), vector])

    got = call.mapped(led).run()[0]
    return (got.as_strided(first.shape, first.stride(), lead),)


IN_SHARES = Symmetry("split shares", (Move("custom", function=in_shares),),
                     frozenset({"address", "core", "tile"}), True)
BESIDE = Symmetry("shift by whole vectors", (Move("custom", function=beside),),
                  frozenset({"address", "tile"}), True)


def negated(tensor: Tensor) -> Tensor:
    """The negative of a tensor, in its layout; where elements share memory, of the memory."""
    image = bits.empty_image(tensor)
    source, target = bits.distinct(tensor), bits.distinct(image)
    if not bits.is_injective(tensor):
        size = (bits.span(tensor),)
        source = tensor.as_strided(size, (1,), tensor.storage_offset())
        target = image.as_strided(size, (1,), image.storage_offset())
    torch.neg(source, out=target)
    return image


def odd_in(call: BoundCall, *names: str) -> tuple[Symmetry, ...]:
    """Negation of the named operands, where all of them are floating tensors."""
    tensors = [call.get(name) for name in names]
    if names and all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
        return (negate(*names),)
    return ()


def pointwise_symmetries(
    call: BoundCall,
    held: tuple[Tensor, ...],
    *,
    odd: tuple[str, ...] = (),
    tail_sensitive: bool = False,
    layout_sensitive: bool = False,
) -> tuple[Symmetry, ...]:
    """Flat splits of dense operands of one layout, splits along the outermost axis else; a roll of
    the last axis for the lane where the op does not depend on the place; negation of ``odd``
    operands for the bits.  The cheap one comes three times in five."""
    result = held[0]
    signed = odd_in(call, *odd)
    if result.numel() < 2:
        # A tensor ``value`` (masked_fill, fill) may not get a dimension, so it cannot be doubled;
        # operands of several ranks would broadcast against each other.
        several = len({t.dim() for _, t in call.tensors()}) > 1
        if tail_sensitive or several or isinstance(call.get("value"), Tensor):
            return (RERUN, *signed)
        return (double(), *signed)
    dense = one_layout(call, held)
    if tail_sensitive:
        threads = torch.get_num_threads()
        if not dense or (layout_sensitive and not result.is_contiguous()):
            return (split(OUTERMOST, known=False), *signed, RERUN)
        if result.device.type != "cpu" or keeps_tails(result.numel(), threads):
            return (flat(), *signed)
        if result.numel() < GRAIN_SIZE:
            return (BESIDE, *signed)
        return (IN_SHARES, *signed)
    cheap = flat() if dense else split(OUTERMOST)
    last = max((d for d in range(result.dim()) if result.shape[d] > 1), default=None)
    lane = () if last is None else (roll(f"d{last}", lane=True),)
    if not lane and not signed:
        return (cheap,)
    if result.numel() >= GRAIN_SIZE:
        return (cheap, *lane, cheap, *signed, cheap)
    # A small call costs its Python, so some visits are one plain call at another address; any
    # three visits in a row have one that moves the place.
    return (cheap, RERUN, *lane, RERUN, cheap, *signed)
