"""What torch documents changes the word of a divergence, and hides none."""

from __future__ import annotations

from urllib.parse import urlparse

import pytest

from sdc_guard.hunt.divergence import SEVERITY, Divergence
from sdc_guard.hunt.documented import ENTRIES, marked
from sdc_guard.hunt.trial import Fill, Layout, Operand, Trial


def _divergence(op: str, word: str, dtype_class: str = "float32") -> Divergence:
    return Divergence(oracle="repeat", op=op, word=word, message="m", dtype_class=dtype_class,
                      layout_class="contiguous", magnitude_class="")


def _trial(target: str = "aten.add.Tensor", device: str = "cpu",
           layout: str = "contiguous") -> Trial:
    operand = Operand(dtype="float32", shape=(2, 2), values=Fill(kind="normal"),
                      layout=Layout(kind=layout))
    return Trial(target=target, args=(operand,), device=device)


def test_entries_link_to_pages_of_the_documentation_and_use_known_words() -> None:
    for entry in ENTRIES:
        assert urlparse(entry.link).hostname == "docs.pytorch.org"
        assert {entry.word, *entry.words} <= set(SEVERITY)
        assert entry.note


@pytest.mark.parametrize(("device", "word"), [("cuda:0", "documented"), ("cpu", "nondeterminism")])
def test_atomic_sums_are_documented_on_cuda_alone(device: str, word: str) -> None:
    found = marked(_trial(device=device), _divergence("aten.index_add.default", "nondeterminism"))
    assert found.word == word
    assert bool(found.link) == (word == "documented")


def test_a_corrupt_sum_stays_corrupt_whatever_is_documented() -> None:
    for op in ("aten.index_add.default", "aten.linalg_svd.default", "aten.median.default"):
        assert marked(_trial(), _divergence(op, "corruption")).word == "corruption"


def test_writing_to_shared_elements_is_documented_and_to_others_is_not() -> None:
    divergence = _divergence("aten.add_.Tensor", "corruption")
    assert marked(_trial("aten.add_.Tensor", layout="expanded"), divergence).word == "documented"
    assert marked(_trial("aten.add_.Tensor"), divergence).word == "corruption"
    assert marked(_trial("aten.add.Tensor", layout="expanded"), divergence).word == "corruption"
