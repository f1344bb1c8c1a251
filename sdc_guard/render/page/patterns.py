"""Pictures of wrong numbers: which bits, how far off against the bound, which elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from sdc_guard.render.page.bars import Band, Bar, Mark, bar_chart
from sdc_guard.render.page.numbers import band_words, layout_of, pattern_of
from sdc_guard.render.page.png import Colour, data_address, png
from sdc_guard.render.page.spreads import MAX_POWER, Total
from sdc_guard.render.page.text import counted

MAX_MASKS = 6
MAX_SVG_SIDE = 32
MAX_SIDE = 512
MIN_SIDE = 10
_LEVELS = 8
_RED: tuple[int, int, int] = (213, 94, 0)
_GROUND: Colour = (128, 128, 128, 40)
_SHOWN_LANES = (8, 32)


@dataclass(frozen=True)
class MaskRow:
    """An xor mask: how often, and how many bits of which band."""

    mask: str
    count: int
    words: str


def bit_chart(total: Total) -> Markup | None:
    """Wrong elements by the bit that differs, the highest bit on the left."""
    flips = total.bit_flips
    if not any(flips):
        return None
    layout = layout_of(total.dtype)
    known = layout is not None and layout.bits == len(flips)
    last = len(flips) - 1

    def band(bit: int) -> str:
        return layout.band(bit) if known and layout is not None else "value"

    bars = [Bar(flips[bit], band(bit),
                f"bit {bit} ({band(bit)}): differs in {counted(flips[bit], 'wrong element')}")
            for bit in range(last, -1, -1)]
    bands = [Band(name, name, last + 1 - low - width, last + 1 - low)
             for name, low, width in (layout.bands if known and layout is not None else ())]
    every = 4 if len(flips) <= 32 else 8
    labels = [(last - bit, str(bit)) for bit in {*range(0, last, every), last}]
    return bar_chart(bars, labels, bands=bands, x_label=f"bit of {total.dtype or 'the number'}",
                     title=f"Which bits differ: {bit_words(total)}")


def bit_words(total: Total) -> str:
    """``only bit 22 (mantissa)``, or the bands with their shares."""
    hit = [bit for bit, count in enumerate(total.bit_flips) if count]
    layout = layout_of(total.dtype)
    if not hit:
        return "the expected bits are not known"
    if len(hit) == 1:
        return f"only bit {hit[0]}" + (f" ({layout.band(hit[0])})" if layout else "")
    if layout is None:
        return f"{len(hit)} different bits"
    mask = sum(1 << bit for bit in hit)
    where = band_words(mask, layout)
    return f"{len(hit)} different bits: {where}"


def mask_rows(total: Total) -> list[MaskRow]:
    """The most frequent masks."""
    layout = layout_of(total.dtype)
    return [MaskRow(mask, count, band_words(pattern_of(mask) or 0, layout))
            for mask, count in total.masks[:MAX_MASKS]]


def error_chart(total: Total) -> Markup | None:
    """Wrong elements by the size of their error, with the bound where it is known."""
    counts = {power: count for power, count in total.ulps_log2 if abs(power) < MAX_POWER}
    if not any(counts.values()):
        return None
    bounds = total.bounds_log2
    low = min([*counts, *(math.floor(b) for b in bounds)]) - 1
    high = max([*counts, *(math.ceil(b) for b in bounds)]) + 2
    bars = [Bar(counts.get(power, 0), "error",
                f"2^{power} to 2^{power + 1} ulps: {counted(counts.get(power, 0), 'element')}")
            for power in range(low, high)]
    every = max(1, -(-len(bars) // 8))
    labels = [(power - low, f"2^{power}") for power in range(low, high) if power % every == 0]
    bands, marks = [], []
    if bounds:
        bands = [Band("", "allowed", 0, min(bounds) - low)]
        marks = [Mark("bound" if max(bounds) - min(bounds) < 1 else "largest bound",
                      max(bounds) - low)]
    return bar_chart(bars, labels, bands=bands, marks=marks, x_label="error in ulps",
                     title=f"Error against the bound: {error_words(total)}")


def error_words(total: Total) -> str:
    """How far the errors reach, and how that compares with the bound."""
    powers = [power for power, count in total.ulps_log2 if count]
    parts = []
    if powers:
        parts.append(f"errors from 2^{min(powers)} to 2^{max(powers) + 1} ulps")
        if total.bounds_log2:
            times = max(powers) - max(total.bounds_log2)
            parts.append(f"bound at {2.0 ** max(total.bounds_log2):.3g} ulps"
                         + (f", exceeded up to {2.0 ** times:.2g} times" if 0 < times < 1000
                            else ""))
        else:
            parts.append("no bound in ulps: the relation is exact, or the distance is no number")
    if total.num_not_finite:
        parts.append(f"{counted(total.num_not_finite, 'wrong element')} not finite")
    return "; ".join(parts) or "no distance is known"


def element_map(total: Total) -> Markup | None:
    """The result as a grid, with the cells that hold wrong elements marked."""
    rows, columns = total.map_shape
    if not total.map or rows < 1 or columns < 1:
        return None
    if columns == 1 < rows:
        flipped = {(0, row): count for (row, _), count in total.map.items()}
        total = replace(total, map=flipped, map_shape=(1, rows))
        rows, columns = 1, rows
    title = f"{rows} by {columns} grid over the result, {counted(len(total.map), 'cell')} hit"
    if rows <= MAX_SVG_SIDE and columns <= MAX_SVG_SIDE * 2:
        return _svg_map(total, rows, columns, title)
    return _png_map(total, rows, columns, title)


def _svg_map(total: Total, rows: int, columns: int, title: str) -> Markup:
    cell = max(4, min(18, 540 // columns, 240 // rows))
    top = max(total.map.values())
    width, height = columns * cell, rows * cell
    parts = [f'<svg viewBox="0 0 {width} {height}" class="map" role="img" '
             f'style="max-width:{width}px"><title>{escape(title)}</title>'
             f'<rect width="{width}" height="{height}" class="ground"/>']
    lines = [f"M{i * cell} 0V{height}" for i in range(1, columns)]
    lines += [f"M0 {i * cell}H{width}" for i in range(1, rows)]
    parts.append(f'<path d="{"".join(lines)}" class="mesh"/>')
    for (row, column), count in sorted(total.map.items()):
        parts.append(f'<rect x="{column * cell}" y="{row * cell}" width="{cell}" height="{cell}" '
                     f'class="hit" opacity="{0.35 + 0.65 * count / top:.2f}"><title>row {row}, '
                     f"column {column}: {count}</title></rect>")
    return Markup("".join([*parts, "</svg>"]))


def _png_map(total: Total, rows: int, columns: int, title: str) -> Markup:
    shrink_rows, shrink_columns = -(-rows // MAX_SIDE), -(-columns // MAX_SIDE)
    height, width = -(-rows // shrink_rows), -(-columns // shrink_columns)
    cells: dict[tuple[int, int], int] = {}
    for (row, column), count in total.map.items():
        key = row // shrink_rows, column // shrink_columns
        cells[key] = cells.get(key, 0) + count
    top = max(cells.values())
    picture = [bytearray(width) for _ in range(height)]
    for (row, column), count in cells.items():
        picture[row][column] = -(-count * _LEVELS // top)
    palette = [_GROUND, *((*_RED, 255 * (i + _LEVELS) // (2 * _LEVELS))
                          for i in range(1, _LEVELS + 1))]
    # A map of one row would be a line that nobody sees.
    tall, wide = -(-MIN_SIDE // height), -(-MIN_SIDE // width)
    rows_drawn = [bytes(value for value in row for _ in range(wide))
                  for row in picture for _ in range(tall)]
    zoom = max(1, min(8, 540 // (width * wide), 280 // (height * tall)))
    address = data_address(png(rows_drawn, palette))
    return Markup('<img class="map" src="{}" style="width:{}px" alt="{}">').format(
        address, width * wide * zoom, title)


def lane_charts(total: Total) -> list[Markup]:
    """Wrong elements by their index in memory order modulo 8 and 32 (or the nearest kept)."""
    widths = [w for w in total.lanes if len(total.lanes[w]) == w]
    chosen = [w for w in widths if w in _SHOWN_LANES] or widths[-1:]
    return [bar_chart([Bar(count, "error", f"index = {i} modulo {width}: {count}")
                       for i, count in enumerate(total.lanes[width])],
                      [(i, str(i)) for i in range(0, width, max(1, width // 8))],
                      x_label=f"index modulo {width}", height=104,
                      title=f"Wrong elements by their index modulo {width}")
            for width in chosen if any(total.lanes[width])]


def map_words(total: Total, item_bytes: int) -> str:
    """What the places of the wrong elements look like."""
    hit = sum(total.lanes[min(total.lanes)]) if total.lanes else sum(total.map.values())
    if hit == 1:
        return "one element: no pattern to see"
    if 0 < total.num_elements == total.num_wrong:
        return "every element is wrong: the places tell nothing"
    parts = _lane_words(total.lanes, item_bytes) + _shape_words(total)
    share = f"{total.num_wrong:,} of {total.num_elements:,} elements: "
    is_everywhere = len(total.map) == total.map_shape[0] * total.map_shape[1] > 1
    return (share if total.num_elements else "") + ("; ".join(parts) or (
        "in every part of the result, no lane stands out" if is_everywhere
        else "no regular pattern in the places"))


def _lane_words(lanes: dict[int, tuple[int, ...]], item_bytes: int) -> list[str]:
    single = [width for width, counts in lanes.items()
              if sum(counts) > 1 and sum(map(bool, counts)) == 1]
    if not single:
        return []
    width = max(single)
    lane = next(i for i, count in enumerate(lanes[width]) if count)
    text = f"every wrong element is number {lane} of its {width} in memory order: one lane"
    registers = {16: "a 128-bit vector", 32: "a 256-bit vector", 64: "a 512-bit vector"}
    fits = [registers[width * item_bytes]] if width * item_bytes in registers else []
    if width == 32:
        fits.append("a warp of 32 threads")
    return [text + (f", as in {' or '.join(fits)}" if fits else "")]


def _shape_words(total: Total) -> list[str]:
    rows, columns = total.map_shape
    if len(total.map) < 2:
        return []
    hit_rows = _span([row for row, _ in total.map])
    hit_columns = _span([column for _, column in total.map])
    parts = []
    if rows > 1 and hit_rows[0] == hit_rows[1]:
        parts.append(f"all in one row of the map ({hit_rows[0]})")
    if columns > 1 and hit_columns[0] == hit_columns[1]:
        parts.append(f"all in one column of the map ({hit_columns[0]})")
    height, width = (high - low + 1 for low, high in (hit_rows, hit_columns))
    is_block = len(total.map) == height * width and height * width < rows * columns
    if is_block and min(height, width) > 1:
        parts.append(f"a full block of {height} by {width} cells, as of one tile")
    return parts


def _span(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)
