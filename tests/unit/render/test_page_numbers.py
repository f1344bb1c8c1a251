"""Numbers by their bits: bands, hexadecimal floats and texts of a page."""

from __future__ import annotations

import math
import struct

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sdc_guard.records import Value
from sdc_guard.render.page.numbers import band_words, bit_cells, hexfloat, layout_of, pattern_of
from sdc_guard.render.page.png import png
from sdc_guard.render.page.text import duration, percent, shown

FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


def value(dtype: str, bits: str) -> Value:
    return Value(dtype=dtype, bits=bits, repr="")


@pytest.mark.parametrize("dtype", FLOAT8)
def test_every_float8_reads_as_torch_reads_it(dtype: str) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(getattr(torch, dtype)).double().tolist()
    for pattern, number in enumerate(numbers):
        shown_as = hexfloat(value(dtype, f"0x{pattern:02x}"))
        if math.isnan(number):
            assert shown_as.startswith("nan, payload 0x")
        else:
            assert shown_as == number.hex(), (dtype, pattern)


@pytest.mark.parametrize(("dtype", "code", "size"), [("float16", "<e", 2), ("float32", "<f", 4),
                                                     ("float64", "<d", 8)])
@given(data=st.data())
def test_every_float_reads_as_python_reads_it(
    dtype: str, code: str, size: int, data: st.DataObject
) -> None:
    raw = data.draw(st.binary(min_size=size, max_size=size))
    (number,) = struct.unpack(code, raw)
    text = hexfloat(value(dtype, f"0x{int.from_bytes(raw, 'little'):x}"))
    assert text == number.hex() or (math.isnan(number) and text.startswith("nan, payload"))


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    assert hexfloat(value("bfloat16", "0x3fc0")) == (1.5).hex()
    assert hexfloat(value("torch.bfloat16", "0xff80")) == (-math.inf).hex()


@pytest.mark.parametrize(("dtype", "bits"), [
    ("float32", "nonsense"), ("float32", "0x1ffffffff"), ("int32", "0x1"), ("other", "0x1")])
def test_what_is_no_float_has_no_hexadecimal_form(dtype: str, bits: str) -> None:
    assert hexfloat(value(dtype, bits)) == ""


def test_bands_cover_each_bit_once() -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16", *FLOAT8, "int8", "int64", "uint8",
                  "bool"):
        layout = layout_of(dtype)
        assert layout is not None
        assert sum(width for _, _, width in layout.bands) == layout.bits
        for name, low, width in layout.bands:
            assert {layout.band(bit) for bit in range(low, low + width)} == {name}
        assert layout.bits == 8 * getattr(torch, dtype).itemsize
    assert layout_of("complex64") == layout_of("float32")


def test_a_mask_is_said_by_bands() -> None:
    layout = layout_of("float32")
    assert band_words(0xC0400001, layout) == "sign, 1 exponent, 2 mantissa"
    assert band_words(0, layout) == "none"
    assert band_words(0b101, None) == "2 bits"


def test_bits_are_drawn_from_the_highest_with_what_differs() -> None:
    cells = bit_cells(value("bfloat16", "0x3fc0"), 0x8001)
    assert "".join(c.digit for c in cells) == f"{0x3FC0:016b}"
    assert [i for i, c in enumerate(cells) if c.differs] == [0, 15]
    assert [c.band for c in cells] == ["sign"] + ["exponent"] * 8 + ["mantissa"] * 7
    assert bit_cells(value("float16", "0x12345"), 0) == []


@pytest.mark.parametrize("text", ["", "0x", "0xzz", "0x" + "f" * 33, "12", "0x1\n"])
def test_a_pattern_that_is_none_is_not_read(text: str) -> None:
    assert pattern_of(text) is None


def test_a_picture_is_a_sound_png() -> None:
    picture = png([b"\x00\x01", b"\x01\x00"], [(1, 2, 3, 0), (4, 5, 6, 255)])
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds = 8, []
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        kinds.append(picture[at + 4:at + 8])
        at += 12 + length
    assert at == len(picture)
    assert kinds == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]


@given(st.text())
def test_every_shown_text_can_be_written_and_holds_no_control(text: str) -> None:
    made = shown(text)
    assert made.encode().decode() == made
    assert not any(ord(c) < 32 and c not in "\n\t" for c in made)


def test_a_long_text_is_cut_where_one_sees_it() -> None:
    assert shown("x" * 30, 10) == "x" * 10 + " \u2026 (20 more characters)"


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert percent(1, 3) == "33.3\u00a0%"
    assert percent(99_999, 100_000) == "99.9\u00a0%"
    assert percent(1, 100_000) == "<0.1\u00a0%"
    assert percent(3, 3) == "100\u00a0%"
    assert percent(0, 3) == "0\u00a0%"
    assert percent(0, 0) == "none"


@pytest.mark.parametrize(("seconds", "words"), [
    (0.85, "850 ms"), (12.34, "12.3 s"), (245.0, "4 min 05 s"), (12000.0, "3 h 20 min"),
    (math.nan, "an unknown time"), (-1.0, "an unknown time")])
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
