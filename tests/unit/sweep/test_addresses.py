"""A wrong element's place in memory, as far as the system tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sdc_guard.sweep import addresses
from sdc_guard.sweep.addresses import PAGE_BYTES, physical_page, place_of


def test_the_place_is_that_of_the_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "physical_page", lambda address: 0)
    held = torch.zeros(3, 4, dtype=torch.int64)
    page = (held.data_ptr() + 8 * 9) // PAGE_BYTES
    assert place_of(held, (2, 1)) == f"byte 0x48 of 0x60, virtual page {page:#x}"
    assert place_of(held.t(), (1, 2)).startswith("byte 0x48 ")


def test_the_physical_page_is_told_where_it_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pagemap = tmp_path / "pagemap"
    entries = [0, 1 << 63 | 0x1234, 0x1234, 1 << 63]
    pagemap.write_bytes(b"".join(e.to_bytes(8, "little") for e in entries))
    monkeypatch.setattr(addresses, "_PAGEMAP", pagemap)
    # Present; not present; hidden from processes without the right; beyond the end.
    assert [physical_page(n * PAGE_BYTES) for n in (1, 2, 3, 9)] == [0x1234, 0, 0, 0]
    monkeypatch.setattr(addresses, "_PAGEMAP", tmp_path / "none")
    assert physical_page(0) == 0
    monkeypatch.setattr(addresses, "physical_page", lambda address: 0x77)
    assert re.search("physical page 0x77$", place_of(torch.zeros(2), (1,)))
