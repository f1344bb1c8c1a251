"""A call is judged by the bound of the kernel that ran, whatever is switched on by then."""

from __future__ import annotations

import pytest
import torch

from sdc_guard.hunt import judging
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.repetition import divergences, is_condemned_again
from sdc_guard.hunt.trial import Fill, Items, Layout, Literal, Modes, Operand, Trial, scalar
from sdc_guard.inject import KernelOverride

BOUND = chosen(("bound",))[0]


def _operand(*shape: int, last: tuple[float, ...] = (), dtype: str = "bfloat16",
             grad: bool = True) -> Operand:
    values = torch.ones(shape, dtype=getattr(torch, dtype))
    if last:
        values.view(-1)[-len(last):] = torch.tensor(last, dtype=values.dtype)
    held = Literal.of(values.view(torch.int16).numpy().tobytes())
    return Operand(dtype=dtype, shape=shape, values=held, layout=Layout(), requires_grad=grad)


def _convolution(*, transposed: bool = False, rank: int = 2, dtype: str = "bfloat16") -> Trial:
    """The gradient of a convolution adds up columns in half precision where oneDNN is off: 2.984375
    in the place of 2.99609375 in two dimensions."""
    name = f"torch.nn.functional.conv{'_transpose' if transposed else ''}{rank}d"
    return Trial(
        target=name, backward=True, modes=Modes(mkldnn=False),
        args=(_operand(1, 3, *[2] * rank, dtype=dtype),
              _operand(3, 3, *[3] * rank, last=(1.0234375, 1.0, 1.0078125), dtype=dtype),
              _operand(3, dtype=dtype),
              *(Items(items=tuple(scalar(2) for _ in range(rank))) for _ in range(2))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_half_convolutions_without_onednn_are_inside_the_proof_of_their_own_kernel(
    transposed: bool, rank: int, dtype: str
) -> None:
    session = Session()
    trial = _convolution(transposed=transposed, rank=rank, dtype=dtype)
    assert not list(divergences(BOUND, trial, session))
    assert session.checked["bound", "aten.convolution"]
    assert session.checked["bound", "aten.convolution_backward"]
    assert not session.not_judged


def test_a_broken_convolution_without_onednn_is_corrupt_also_when_judged_again() -> None:
    def off(call: object, results: tuple[torch.Tensor, ...]) -> None:
        results[0].fill_(77.0)

    with KernelOverride(torch.ops.aten.convolution.default, off):
        found: list[Divergence] = list(divergences(BOUND, _convolution(), Session()))
    assert found[0].word == "corruption"
    assert is_condemned_again(found[0])


def test_threads_and_onednn_are_those_of_the_call_while_it_is_judged_and_no_longer(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []

    def noted(observation: object, entry: object) -> judging.Verdict:
        seen.append((torch.get_num_threads(), torch._C._get_mkldnn_enabled()))
        return judging.Verdict(observation, reason="noted")  # type: ignore[arg-type]

    monkeypatch.setattr(judging, "_verdict", noted)
    before = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    threads = before[0] + 1
    operand = Operand(dtype="float32", shape=(3,), values=Fill(kind="normal"))
    base = execute(Trial(target="aten.sin.default", args=(operand,),
                         modes=Modes(threads=threads, mkldnn=False)))
    judging.verdict_of(Session(), base.observations[0], base.entries[0])
    assert seen == [(threads, False)]
    assert (torch.get_num_threads(), torch._C._get_mkldnn_enabled()) == before
