"""The scripts of findings: run with torch alone, wrong where torch is, right where it is not."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.findings import Finder
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.script import call_arguments
from sdc_guard.hunt.script_operands import NotWritableError, Source
from sdc_guard.hunt.script_runs import outcome_of
from sdc_guard.hunt.trial import Alias, Fill, Items, Modes, Operand, Scalar, Trial
from tests.unit.hunt.made_findings import (
    BOUND,
    EXP,
    GELU_OUT,
    NANMEDIAN,
    broken_exp,
    operand,
    struck,
    take,
)

ops = torch.ops.aten
_INDEX = Operand(dtype="int64", shape=(3, 2), values=Fill(kind="constant"), free=False)
SOUND: dict[str, tuple[Trial, Any]] = {
    "permuted": (Trial(target="aten.mul.Tensor", args=(
        operand(4, 3, layout="permuted"), operand(3, seed=2))), ops.mul.Tensor),
    "in place": (Trial(target="aten.add_.Tensor", args=(
        operand(5, layout="offset", detail=3), operand(5, seed=2))), ops.add_.Tensor),
    "out is an input": (Trial(target="aten.mul.out", args=(
        operand(5), operand(5, seed=2)), kwargs={"out": Alias(of=0)}), ops.mul.out),
    "bf16 product": (Trial(target="aten.mm.default", args=(
        operand(3, 9, dtype="bfloat16"), operand(9, 2, dtype="bfloat16", seed=4))),
        ops.mm.default),
    "integers": (Trial(target="aten.sum.default", args=(
        operand(4, dtype="int64", kind="large integers"),)), ops.sum.default),
    "bool": (Trial(target="aten.eq.Tensor", args=(operand(6), operand(6))), ops.eq.Tensor),
    "list": (Trial(target="aten.cat.default", args=(
        Items(items=(operand(2, 3), operand(1, 3, seed=5))), Scalar(kind="int", text="0"))),
        ops.cat.default),
    "gather": (Trial(target="aten.gather.default", args=(
        operand(3, 2), Scalar(kind="int", text="0"), _INDEX)), ops.gather.default),
    "packed": (Trial(target="aten.sum.dim_IntList", args=(
        operand(2, 700), Items(items=(Scalar(kind="int", text="1"),)))), ops.sum.dim_IntList),
    "constant": (Trial(target="aten.mean.default", args=(
        operand(300, 20, kind="constant"),)), ops.mean.default),
    "nan": (Trial(target="aten.maximum.default", args=(
        operand(300, kind="special", seed=3), operand(300, seed=2))), ops.maximum.default),
}

_DRIVER = """
import contextlib, io, json, runpy, sys
told = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(path, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
    told[path] = [code, out.getvalue()]
told["foreign"] = sorted({m.split(".")[0] for m in sys.modules} & {"sdc_guard", "hypothesis"})
print(json.dumps(told))
"""


def _run_all(scripts: dict[str, str], folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of each, from one fresh process that is isolated from this checkout."""
    paths = {}
    for name, text in scripts.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.py"
        paths[name].write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "-c", _DRIVER, *map(str, paths.values())], capture_output=True,
        text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("foreign") == []
    return {name: tuple(told[str(path)]) for name, path in paths.items()}


def _crash(trial: Trial) -> str:
    divergence = Divergence(
        oracle="process", op=trial.target, word="crash", message="ends its process",
        dtype_class="float32", layout_class="contiguous", magnitude_class="SIGSEGV")
    return Finder(BOUND, runs_scripts=False).take(trial, divergence).script


def _whole_calls() -> dict[str, str]:
    """Calls with gradients, under autocast, in inference mode."""
    trial = Trial(
        target="torch.nn.functional.linear", backward=True,
        args=tuple(msgspec.structs.replace(o, requires_grad=True)
                   for o in (operand(2, 3), operand(4, 3, seed=1))))
    modes = {"linear": trial.modes, "autocast": Modes(autocast="bfloat16")}
    return {**{name: _crash(msgspec.structs.replace(trial, modes=m)) for name, m in modes.items()},
            "inference": _crash(msgspec.structs.replace(EXP, modes=Modes(inference=True)))}


def _another_dtype() -> dict[str, str]:
    divergence = Divergence(
        oracle="semantics", op=EXP.target, word="semantic difference", message="another dtype",
        dtype_class="float32", layout_class="permuted", magnitude_class="dtype")
    oracle = dataclasses.replace(BOUND[0], name="semantics",
                                 check=lambda session, trial, base: iter([divergence]))
    script = Finder((oracle,), runs_scripts=False, max_tries=0).take(EXP, divergence).script
    mended = script.replace("torch.float32, (4, 6)", "torch.float64, (4, 6)")
    assert mended != script
    return {"dtype": script, "dtype, mended": mended}


@pytest.fixture(scope="module")
def found() -> dict[str, FoundDivergence]:
    every = {name: struck(trial, op) for name, (trial, op) in SOUND.items()}
    with broken_exp(lambda n: n % 2 == 0):
        every["comes and goes"] = take(EXP, max_tries=0)
    return {**every, "nanmedian": take(NANMEDIAN), "gelu": take(GELU_OUT)}


@pytest.fixture(scope="module")
def runs(found: dict[str, FoundDivergence], tmp_path_factory: pytest.TempPathFactory
         ) -> dict[str, tuple[int, str]]:
    scripts = {name: one.script for name, one in found.items()}
    scripts |= {**_whole_calls(), **_another_dtype()}
    scripts["bf16 product, wrong"] = found["bf16 product"].script.replace(
        "got = element.item()", "got = element.item() * 3 + 5")
    return _run_all(scripts, tmp_path_factory.mktemp("scripts"))


@pytest.mark.parametrize("name", ["nanmedian", "gelu"])
def test_a_bug_of_torch_shows_itself_with_torch_alone(
    name: str, runs: dict[str, tuple[int, str]]
) -> None:
    code, said = runs[name]
    assert code == 1
    assert said.rstrip().endswith("WRONG")
    assert "expected" in said
    assert "ulps" in said


@pytest.mark.parametrize("name", [*SOUND, "comes and goes"])
def test_a_planted_fault_is_written_up_and_the_same_call_is_right_without_it(
    name: str, runs: dict[str, tuple[int, str]], found: dict[str, FoundDivergence]
) -> None:
    assert found[name].word == "corruption"
    assert found[name].exact == "confirmed"
    code, said = runs[name]
    assert (code, said.rstrip().rpartition(" ")[2]) == (0, "RIGHT"), said


def test_scripts_are_short_and_import_only_torch_and_the_standard_library(
    found: dict[str, FoundDivergence]
) -> None:
    for name, one in found.items():
        tree = ast.parse(one.script)
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert imported <= {"torch", "sys", "base64", "zlib"}, name
        assert len(one.script.splitlines()) <= 30, name


def test_the_comparison_of_a_script_sees_a_wrong_number(runs: dict[str, tuple[int, str]]) -> None:
    code, said = runs["bf16 product, wrong"]
    assert code == 1
    assert said.rstrip().endswith("WRONG")


@pytest.mark.parametrize("name", ["linear", "autocast", "inference"])
def test_a_script_of_a_crash_that_is_none_here_comes_to_its_end(
    name: str, runs: dict[str, tuple[int, str]]
) -> None:
    code, said = runs[name]
    assert code == 0, said
    assert said.rstrip().endswith("RIGHT")


def test_a_difference_of_dtype_is_wrong_as_long_as_it_is_there(
    runs: dict[str, tuple[int, str]]
) -> None:
    assert runs["dtype"][0] == 1
    assert runs["dtype, mended"][0] == 0


def test_the_last_word_decides_not_the_exit_code_alone(tmp_path: Path) -> None:
    for text, word in (("raise ValueError('no')", "failed"), ("print('x: RIGHT')", "right"),
                       ("import sys\nprint('x: WRONG')\nsys.exit(1)", "wrong"),
                       ("import sys\nprint('x: WRONG')", "failed"),
                       ("import os\nos.abort()", "crash")):
        path = tmp_path / "script.py"
        path.write_text(text, encoding="utf-8")
        assert outcome_of(path, sys.executable, 300)[0] == word, text
    path.write_text("import time\ntime.sleep(60)", encoding="utf-8")
    assert outcome_of(path, sys.executable, 0.3)[0] == "hang"


def test_operands_come_back_bit_for_bit_with_their_strides_and_what_they_share() -> None:
    base = torch.arange(24.0)
    nan = torch.tensor([0x7FC00001, 0x80000000], dtype=torch.uint32).view(torch.float32)
    tensors = [base[3:15].view(3, 4).t(), base[10:12], nan, torch.empty(0, 3),
               torch.tensor(2.5, dtype=torch.float16), torch.tensor([True, False]),
               torch.tensor([1 + 2j, complex("nan")]), torch.tensor([2**63 - 1, -(2**63)]),
               torch.randn(500, generator=torch.Generator().manual_seed(1)), torch.ones(10_000)]
    source = Source()
    source.add(tensors)
    scope: dict[str, Any] = {"torch": torch}
    exec("\n".join([*(f"import {m}" for m in sorted(source.imports)), *source.lines]), scope)
    for tensor in tensors:
        made = scope[source.names[id(tensor)]]
        assert (made.dtype, made.shape, made.stride(), made.storage_offset()) == (
            tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())
        assert bytes(made.untyped_storage()) == bytes(tensor.untyped_storage())
    shared = [scope[source.names[id(t)]] for t in tensors[:2]]
    assert shared[0].untyped_storage().data_ptr() == shared[1].untyped_storage().data_ptr()


def test_operands_that_are_too_large_or_lazy_are_refused() -> None:
    with pytest.raises(NotWritableError, match="no short expression"):
        Source().add([torch.randn(100_000)])
    with pytest.raises(NotWritableError, match="lazy"):
        Source().add([torch.randn(3, dtype=torch.complex64).conj()])


def test_a_none_that_has_no_default_is_spelled() -> None:
    form = form_of(ops._embedding_bag_backward.default)
    call = BoundCall(form, (*range(10), None, -1))
    assert call_arguments(call, {}) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, None"
