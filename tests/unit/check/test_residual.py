"""Residuals: what is broken, what is judged, and whom it accuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdc_guard.check.residual import broken_entries, broken_residuals
from sdc_guard.ops._axes import Axes
from sdc_guard.ops._registry import (
    Blame,
    Residual,
    blame_columns,
    blame_elements,
    blame_matrices,
    blame_rows,
)

LARGEST = 100.0
AXES = Axes({}, (("b0", ".", "."), ("b0", ".")))


def _residual(defect: float, proof: float | None, contract: float, magnitude: float = 0.0,
              blame: Blame = blame_elements, output: int = 0) -> Residual:
    entries = np.zeros((2, 3, 3))
    entries[1, 0, 2] = defect
    return Residual(output, entries, proof, contract, "|A X - B| <= c", magnitude, blame)


@pytest.mark.parametrize(("residual", "exceeds"), [
    (_residual(0.5, 2.0, 1.0), None),
    (_residual(1.5, 2.0, 1.0), "contract"),
    (_residual(2.5, 2.0, 1.0), "proof"),
    (_residual(2.5, None, 1.0), "contract"),
    (_residual(np.nan, 2.0, 1.0), "proof"),
    (_residual(np.inf, np.inf, 1.0), "contract"),
    (_residual(np.nan, np.inf, np.inf), None),
    (_residual(9.0, 2.0, 1.0, magnitude=101.0), None),
])
def test_limits_decide(residual: Residual, exceeds: str | None) -> None:
    found = broken_entries(residual, LARGEST)
    assert (found[1] if found else None) == exceeds


@pytest.mark.parametrize(("blame", "num_wrong"), [
    (blame_elements, 1), (blame_columns, 3), (blame_rows, 3), (blame_matrices, 9)])
def test_an_entry_accuses_elements(blame: Blame, num_wrong: int) -> None:
    held = (torch.zeros(2, 3, 3), torch.zeros(2, 3))
    residual = _residual(5.0, 2.0, 1.0, blame=blame)
    (found,) = broken_residuals([residual], AXES, held, held, None)
    assert found.witness == "residual"
    assert found.expected is None
    assert found.wrong.sum() == num_wrong
    assert found.wrong[1, 0, 2]
    assert "5 exceeds 2" in found.formula


def test_a_matrix_accuses_its_vector_of_a_window() -> None:
    held = (torch.zeros(6, 3, 3), torch.zeros(6, 3))
    part = tuple(t[2:4] for t in held)
    residual = _residual(5.0, 2.0, 1.0, blame=blame_matrices, output=1)
    (found,) = broken_residuals([residual], AXES, part, held, ("b0", 2, 2))
    assert np.argwhere(found.wrong.any(-1)).tolist() == [[3]]
