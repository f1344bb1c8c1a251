"""CRC-32 (IEEE 802.3) by Python's integers: an answer for ``zlib.crc32`` of much memory.

A CRC of a block that is repeated follows from that of the block: appending n bytes multiplies what
was there by x^(8n) modulo the polynomial.
"""

from __future__ import annotations

from sdc_guard.errors import UsageError

POLYNOMIAL = 0xEDB88320
"""With its bits reversed."""
ONES = 0xFFFFFFFF


def crc32(data: bytes) -> int:
    """Bit by bit."""
    rest = ONES
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (POLYNOMIAL if rest & 1 else 0)
    return rest ^ ONES


def crc32_of_doubled(data: bytes, doublings: int) -> int:
    """Of ``data`` repeated 2^doublings times.

    Raises:
        UsageError: for a negative number.
    """
    if doublings < 0:
        raise UsageError(f"doublings is {doublings}; give 0 or more")
    crc, factor = crc32(data), _power(8 * len(data))
    for _ in range(doublings):
        # CRC(A A) = x^(8 |A|) CRC(A) + CRC(A): the ones at either end cancel.
        crc ^= _product(crc, factor)
        factor = _product(factor, factor)
    return crc


def _product(a: int, b: int) -> int:
    """Of two polynomials over GF(2) with reversed bits, modulo the polynomial."""
    total = 0
    for place in range(31, -1, -1):
        if a >> place & 1:
            total ^= b
        b = (b >> 1) ^ (POLYNOMIAL if b & 1 else 0)
    return total


def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    result, base = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            result = _product(result, base)
        base = _product(base, base)
        exponent >>= 1
    return result
