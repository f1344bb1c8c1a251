"""Replay: which recorded result comes out, with the fault present and without it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from sdc_guard.bits import snapshot
from sdc_guard.cli.replay import command
from sdc_guard.errors import BundleError, UsageError
from sdc_guard.evidence import BundleWriter, read_bundle, replay
from sdc_guard.evidence.standalone import script
from sdc_guard.evidence.standalone.switches import numeric_flags
from sdc_guard.inject.override import KernelOverride
from sdc_guard.records import Bound
from tests.unit.evidence.calls_to_store import CALLS, aten, bound_call, finding_for, results_of

TOP = Path(__file__).resolve().parents[3]
BREAK_SUM = """
import torch
kernel = torch.library.get_kernel("aten::sum.dim_IntList", "CPU")
def broken(keys, *args, **kwargs):
    out = kernel.call_boxed(keys, *args, **kwargs)
    out.view(-1)[0] += 1.0
    return out
library = torch.library.Library("aten", "IMPL")
library.impl("sum.dim_IntList", broken, "CPU", with_keyset=True, allow_override=True)
"""


def add_one_to_the_first(call: object, results: tuple[Tensor, ...]) -> None:
    results[0].view(-1)[0] += 1.0


def broken_sum() -> KernelOverride:
    return KernelOverride(aten.sum.dim_IntList, add_one_to_the_first)


@pytest.fixture
def faulty_sum(tmp_path: Path) -> Path:
    """A bundle of a sum that was made while its kernel was broken."""
    torch.manual_seed(2)
    call = bound_call(aten.sum.dim_IntList, torch.randn(6, 40)[:, 1:38], [1])
    right = results_of(call)
    with broken_sum():
        held = results_of(call)
    return Path(BundleWriter(tmp_path).write(call, held, right, finding_for(call), "s").bundle)


def test_a_broken_kernel_reproduces_with_it_and_not_without_it(faulty_sum: Path) -> None:
    bundle = read_bundle(faulty_sum)
    with broken_sum():
        broken = replay(bundle)
    assert (broken.reproduces, broken.runs) == ("held", ("held",) * 3)
    assert broken.wrong_from_expected == (1,)
    assert broken.worst is not None
    assert broken.worst.index == (0,)
    assert float(broken.worst.error.repr) == pytest.approx(1.0, abs=1e-5)

    healthy = replay(bundle)
    assert (healthy.reproduces, healthy.wrong_from_held) == ("expected", (1,))
    assert healthy.worst is None


def test_a_fault_in_one_run_of_three_counts_as_reproduced(faulty_sum: Path) -> None:
    seen = []

    def sometimes(call: object, results: tuple[Tensor, ...]) -> None:
        seen.append(call)
        if len(seen) == 2:
            results[0].view(-1)[0] += 1.0

    with KernelOverride(aten.sum.dim_IntList, sometimes):
        result = replay(read_bundle(faulty_sum))
    assert result.runs == ("expected", "held", "expected")
    assert result.reproduces == "held"
    assert "1 of 3 runs" in result.message


def test_another_wrong_result_is_neither(faulty_sum: Path) -> None:
    def another(call: object, results: tuple[Tensor, ...]) -> None:
        results[0][3] = float("nan")

    with KernelOverride(aten.sum.dim_IntList, another):
        result = replay(read_bundle(faulty_sum), num_runs=1)
    assert result.reproduces == "other"
    assert (result.wrong_from_held, result.wrong_from_expected) == ((2,), (1,))
    assert result.worst is not None
    assert (result.worst.index, result.worst.got.repr) == ((3,), "nan")


def test_a_call_that_raises_is_an_outcome(faulty_sum: Path) -> None:
    def fail(call: object, results: tuple[Tensor, ...]) -> None:
        raise RuntimeError("device lost")

    with KernelOverride(aten.sum.dim_IntList, fail):
        result = replay(read_bundle(faulty_sum), num_runs=2)
    assert (result.reproduces, result.runs) == ("other", ("failed", "failed"))
    assert "device lost" in result.message


def test_a_reference_of_higher_precision_is_met_within_its_bound_only(tmp_path: Path) -> None:
    torch.manual_seed(4)
    call = bound_call(aten.mm.default, torch.randn(8, 64), torch.randn(64, 8))
    (product,) = results_of(call)
    reference = call.args[0].double() @ call.args[1].double()
    held = product.clone()
    held[0, 0] += 5.0

    def bundle_with(limit: float) -> str:
        finding = finding_for(call, bound=Bound(kind="proof", limit=limit, formula="gamma_64"))
        return BundleWriter(tmp_path).write(call, (held,), (reference,), finding, "s").bundle

    inside = replay(read_bundle(bundle_with(1e-3)))
    assert inside.reproduces == "expected"
    assert "within its bound" in inside.message
    outside = replay(read_bundle(bundle_with(1e-12)))
    assert outside.reproduces == "other"
    assert "outside its bound" in outside.message


def test_the_recorded_thread_count_and_flags_hold_during_the_call_and_not_after(
    faulty_sum: Path,
) -> None:
    seen: list[tuple[int, bool]] = []

    def look(call: object, results: tuple[Tensor, ...]) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))

    bundle = read_bundle(faulty_sum)
    bundle.contents.manifest["flags"]["deterministic_algorithms"] = 2
    before = (torch.get_num_threads(), numeric_flags())
    with KernelOverride(aten.sum.dim_IntList, look):
        replay(bundle, num_runs=1, num_threads=3)
        replay(bundle, num_runs=1)
    assert seen == [(3, True), (bundle.num_threads, True)]
    assert (torch.get_num_threads(), numeric_flags()) == before


def test_flushing_of_subnormals_is_recorded_and_set(tmp_path: Path) -> None:
    call = bound_call(aten.mul.Tensor, torch.full((64,), 1e-20), torch.full((64,), 1e-20))
    kept = results_of(call)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        flushed = results_of(call)
        evidence = BundleWriter(tmp_path).write(call, flushed, kept, finding_for(call), "s")
    finally:
        torch.set_flush_denormal(False)
    assert flushed[0].tolist() != kept[0].tolist()
    assert replay(read_bundle(evidence.bundle), num_runs=1, num_threads=1).reproduces == "held"
    assert results_of(call)[0].tolist() == kept[0].tolist()


def test_autocast_and_autograd_around_a_replay_do_not_touch_the_call(tmp_path: Path) -> None:
    torch.manual_seed(9)
    call = bound_call(aten.mm.default, torch.randn(16, 16), torch.randn(16, 16))
    bundle = BundleWriter(tmp_path).write(
        call, results_of(call), (None,), finding_for(call), "s").bundle
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert results_of(call)[0].dtype is torch.bfloat16
        assert replay(read_bundle(bundle), num_runs=1).reproduces == "held"


@pytest.mark.parametrize("wrong", [{"num_runs": 0}, {"num_threads": 0}])
def test_counts_below_one_are_refused(faulty_sum: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="=0: give 1 or more"):
        replay(read_bundle(faulty_sum), **wrong)


def test_a_random_operator_is_named_as_not_repeatable(tmp_path: Path) -> None:
    call = bound_call(aten.bernoulli.p, torch.ones(100), 0.5)
    held = results_of(call)
    bundle = BundleWriter(tmp_path).write(call, held, (None,), finding_for(call), "s").bundle
    result = replay(read_bundle(bundle), num_runs=1)
    assert result.reproduces == "other"
    assert "draws random numbers" in result.message
    assert "no expected result is stored" in result.message


def test_stats_only_bundles_have_nothing_to_replay(tmp_path: Path) -> None:
    call = CALLS["fp32 mm"]()
    writer = BundleWriter(tmp_path, level="stats")
    bundle = read_bundle(
        writer.write(call, results_of(call), (None,), finding_for(call), "s").bundle)
    with pytest.raises(BundleError, match=r"no call to repeat.*level is stats"):
        replay(bundle)
    outcome = CliRunner().invoke(command, [str(bundle.path)])
    assert outcome.exit_code == 5
    assert "nothing to repeat" in outcome.output


def test_the_command_tells_what_the_bundle_holds_and_exits_by_the_contract(
    faulty_sum: Path,
) -> None:
    healthy = CliRunner().invoke(command, [str(faulty_sum), "--runs", "2", "--threads", "1"])
    assert healthy.exit_code == 0
    for text in ("aten::sum.dim_IntList", "blocks.0.mlp", "train.py:41", "corruption", "software",
                 "expected result came out in all 2 runs"):
        assert text in healthy.output
    with broken_sum():
        broken = CliRunner().invoke(command, [str(faulty_sum), "--json"])
    assert broken.exit_code == 1
    assert '"reproduces": "held"' in broken.output
    assert "Infinity" not in broken.output

    def another(call: object, results: tuple[Tensor, ...]) -> None:
        results[0].zero_()

    with KernelOverride(aten.sum.dim_IntList, another):
        assert CliRunner().invoke(command, [str(faulty_sum)]).exit_code == 3


def test_the_command_refuses_what_is_not_a_bundle_or_an_unknown_device(
    faulty_sum: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.sdcz").write_bytes(b"not a zip")
    runner = CliRunner()
    assert runner.invoke(command, [str(tmp_path / "x.sdcz")]).exit_code == 2
    assert runner.invoke(command, [str(tmp_path / "absent")]).exit_code == 2
    assert runner.invoke(command, [str(faulty_sum), "--runs", "0"]).exit_code == 2
    assert runner.invoke(command, [str(faulty_sum), "--device", "warp:1"]).exit_code == 2
    assert runner.invoke(command, [str(faulty_sum), "--import", "no_such_mod"]).exit_code == 2


def test_a_right_result_that_comes_out_again_is_no_divergence(tmp_path: Path) -> None:
    call = CALLS["fp32 mm"]()
    held = results_of(call)
    finding = finding_for(call, held_is_wrong=False)
    bundle = BundleWriter(tmp_path).write(call, held, (None,), finding, "s").bundle
    assert CliRunner().invoke(command, [bundle]).exit_code == 0
    assert run_alone([bundle]).returncode == 0


def run_alone(arguments: list[str], prelude: str = "") -> subprocess.CompletedProcess[str]:
    """The bundle's own script where importing sdc_guard fails."""
    code = (f"import sys, runpy; sys.modules['sdc_guard'] = None\n{prelude}\n"
            f"sys.argv = {arguments!r}; runpy.run_path({arguments[0]!r}, run_name='__main__')")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([sys.executable, "-c", code], cwd="/", env=environment,
                          capture_output=True, text=True, timeout=300, check=False)


def test_the_bundle_replays_itself_with_torch_alone(faulty_sum: Path, tmp_path: Path) -> None:
    healthy = run_alone([str(faulty_sum)])
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert "the expected result comes out here" in healthy.stdout

    broken = run_alone([str(faulty_sum), "--runs", "1"], BREAK_SUM)
    assert broken.returncode == 1, broken.stderr
    assert "run 1: held" in broken.stdout

    with zipfile.ZipFile(faulty_sum) as archive:
        archive.extract("replay.py", tmp_path / "alone")
        archive.extractall(tmp_path / "folder")
    beside = run_alone([str(tmp_path / "alone" / "replay.py"), str(faulty_sum)])
    assert beside.returncode == 0, beside.stderr
    unpacked = run_alone([str(tmp_path / "folder" / "replay.py")])
    assert unpacked.returncode == 0, unpacked.stderr


def test_the_script_rebuilds_what_the_package_rebuilds(tmp_path: Path) -> None:
    bundles = []
    for name, make in CALLS.items():
        torch.manual_seed(6)
        call = make()
        torch.manual_seed(6)
        held = results_of(make())
        writer = BundleWriter(tmp_path / name.replace(" ", "-"))
        bundles.append(writer.write(call, held, held, finding_for(call), "s").bundle)
    first, *others = bundles
    code = f"""
import runpy, sys
for bundle in {others!r}:
    sys.argv = [bundle, bundle, "--runs", "1"]
    try:
        runpy.run_path(bundle, run_name="__main__")
    except SystemExit as end:
        assert end.code == 1, (bundle, end.code)
"""
    alone = run_alone([first, first, "--runs", "1"], code)
    assert alone.returncode == 1, alone.stdout + alone.stderr
    assert alone.stderr == ""
    assert alone.stdout.count("run 1: held") == len(CALLS)


def test_the_script_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = CALLS["fp32 mm"]()
    finding = finding_for(call)
    stats = BundleWriter(tmp_path, level="stats").write(
        call, results_of(call), (None,), finding, "s").bundle
    whole = BundleWriter(tmp_path).write(call, results_of(call), (None,), finding, "s").bundle
    assert script.main([stats]) == 5
    assert "evidence level is stats" in capsys.readouterr().out
    with KernelOverride(aten.mm.default, add_one_to_the_first):
        assert script.main([whole, "--runs", "1"]) == 3
    assert "1 from the held result differ" in capsys.readouterr().out

    def fail(call: object, results: tuple[Tensor, ...]) -> None:
        raise RuntimeError("device lost")

    with KernelOverride(aten.mm.default, fail):
        assert script.main([whole]) == 3
    assert "device lost" in capsys.readouterr().out
    assert script.main([whole, "--device", "warp"]) == 4
    assert "warp" in capsys.readouterr().err
    damaged = tmp_path / "damaged.sdcz"
    damaged.write_bytes(Path(whole).read_bytes()[:-40])
    assert script.main([str(damaged)]) == 2
    assert "damaged or truncated" in capsys.readouterr().err
    with zipfile.ZipFile(whole) as archive:
        archive.extract("replay.py", tmp_path)
    assert run_alone([str(tmp_path / "replay.py"), str(damaged)]).returncode == 2


def test_an_operand_aliased_by_out_replays_as_the_aliased_call(tmp_path: Path) -> None:
    """A kernel that is wrong only when its output is its input shows the fault again."""
    def wrong_if_aliased(call: object, results: tuple[Tensor, ...]) -> None:
        if results[0].data_ptr() == call.args[0].data_ptr():  # type: ignore[attr-defined]
            results[0][0] += 1.0

    base = torch.randn(6)
    before = snapshot(base)
    call = bound_call(aten.add.out, before, torch.ones(6), out=before)
    right = (base + 1.0,)
    with KernelOverride(aten.add.out, wrong_if_aliased):
        image = snapshot(base)
        aten.add.out(image, torch.ones(6), out=image)
        evidence = BundleWriter(tmp_path).write(call, (image,), right, finding_for(call), "s")
        assert replay(read_bundle(evidence.bundle), num_runs=1).reproduces == "held"
    assert replay(read_bundle(evidence.bundle), num_runs=1).reproduces == "expected"
