"""Which effect of a drawn fault counts as above the bound."""

from __future__ import annotations

import numpy as np
import torch

from tests.catalogue import faults


def test_the_bound_of_a_complex_call_is_that_of_its_own_file() -> None:
    system = torch.randn(4, 4, dtype=torch.complex64)
    (call,) = (c for c in faults.record(lambda: torch.linalg.eigvalsh(system))
               if c.call.form.packet == "aten._linalg_eigh")
    assert faults.limits_of(call.call, call.held)[0] is None, "the file takes real systems only"
    (call,) = faults.record(lambda: system @ system)
    (limit,) = faults.limits_of(call.call, call.held)
    assert limit is not None
    assert (np.asarray(limit) > 0).all()
