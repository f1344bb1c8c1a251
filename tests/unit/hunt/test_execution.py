"""What a recorder keeps of the operators that run."""

from __future__ import annotations

import pytest
import torch

from sdc_guard.hunt import execution
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.trial import Fill, Operand, Trial


def test_a_call_with_many_results_is_recorded_in_time_that_grows_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[torch.Tensor] = []
    address_range = execution.address_range

    def counted(tensor: torch.Tensor) -> tuple[int, int]:
        looked.append(tensor)
        return address_range(tensor)

    monkeypatch.setattr(execution, "address_range", counted)
    with execution.Recorder() as recorder:
        for _ in range(200):
            torch.ones(3)[1::2].fill_(-0.5)
    assert len(recorder.observations) == 400
    assert len(looked) < 10 * len(recorder.observations)


def test_the_incoming_gradients_of_a_hunt_are_not_part_of_the_call() -> None:
    operand = Operand(dtype="float32", shape=(3,), values=Fill(kind="normal"), requires_grad=True)
    made = execute(Trial(target="torch.exp", args=(operand,), backward=True))
    assert [o.call.form.name for o in made.observations] == [
        "aten.exp.default", "aten.mul.Tensor"]
    assert made.num_forward == 1
    assert made.gradients[0] is not None
