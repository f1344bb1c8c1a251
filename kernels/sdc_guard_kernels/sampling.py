"""Which elements a sample takes: drawn on the device from a seed, by a counter.

``draw`` maps (seed, counter) to 64 bits by the finalizer of SplitMix64 (Steele, Lea and Flood 2014)
of ``seed + (counter + 1) * 0x9E3779B97F4A7C15`` and reduces its upper 63 bits modulo ``num``: a
choice depends on nothing but seed and counter, however many programs share the work.

``stratum`` cuts ``num`` elements into ``num_samples`` strata of almost equal size and draws one
element of each.  Elements are never taken twice, and where there are no more elements than samples
each of them is taken: an empty stratum has none.

The modulo prefers some elements by a relative ``num / 2^63`` at most.  No memory is read.
"""

from __future__ import annotations

import triton
import triton.language as tl

SEED_BIT = 1 << 62
"""Set in every seed that is passed to a kernel, so that all seeds have one type there."""


@triton.jit
def draw(seed, counter, num):  # type: ignore[no-untyped-def]
    """Integers of ``0 ... num - 1``, one for each int64 ``counter``; all of them 0 for num = 1."""
    z = tl.cast(seed, tl.uint64) + (counter.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> 1).to(tl.int64) % num


@triton.jit
def stratum(seed, counter, num_samples, num):  # type: ignore[no-untyped-def]
    """An element of stratum ``counter`` for each int64 counter, and whether there is one; elements
    are 0 where not.  ``num * num_samples`` must stay below 2^63."""
    first = counter * num // num_samples
    size = (counter + 1) * num // num_samples - first
    exists = (counter < num_samples) & (size > 0)
    element = first + draw(seed, counter, tl.where(exists, size, 1))
    return tl.where(exists, element, 0), exists
