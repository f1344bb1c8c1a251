"""Maps along dimensions: entries in place of matrices, to the same results."""

from __future__ import annotations

import numpy as np
import pytest

from sdc_guard.ops._registry import F64
from sdc_guard.ops._separable import Map, applied, mapped
from sdc_guard.ops.upsample_linear import weights


def _dense(its: Map) -> F64:
    matrix = np.zeros((its.num_rows, its.num_columns))
    matrix[its.rows, its.columns] = its.weights
    return matrix


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("size", "out"), [(5, 12), (7, 3), (6, 6), (1, 4), (4, 1)])
@pytest.mark.parametrize("odd", [(), (np.inf,), (np.inf, -np.inf), (np.nan,)])
def test_a_map_gives_what_its_matrix_gives(
    align: bool, size: int, out: int, odd: tuple[float, ...]
) -> None:
    its, eye = weights(size, out, align, None, 2.0**-24), Map.of(np.eye(3), np.zeros((3, 3)))
    for each in (its, its.turned):
        x = np.arange(each.num_columns * 6.0).reshape(2, each.num_columns, 3) - 4
        x.reshape(-1)[1 : 1 + len(odd)] = odd
        with np.errstate(all="ignore"):
            wanted = applied(x, [_dense(each), np.eye(3)])
            found = mapped(x, [each, eye])
        np.testing.assert_allclose(found, wanted, rtol=1e-14)
    np.testing.assert_allclose(_dense(its).sum(1), 1.0, rtol=1e-15)


def test_long_lines_cost_what_their_elements_cost() -> None:
    its = weights(1 << 17, 1 << 18, False, None, 2.0**-24)
    assert its.weights.size <= 4 << 18  # its matrix would hold 2**35
    assert its.depth == 4
    np.testing.assert_allclose(mapped(np.ones((1, 1 << 17)), [its]), 1.0, rtol=1e-15)
