"""``SdcGuardCallback`` around a tiny random model: equal bits, findings, logs, policies, resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fidelity.models import bits_of
from tests.meta.tree import ROOT

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: make test-integrations")
pytest.importorskip("accelerate", reason="accelerate is not installed: make test-integrations")

from sdc_guard import CorruptionDetected  # noqa: E402
from sdc_guard.inject.override import KernelOverride  # noqa: E402
from sdc_guard.integrations.transformers import SdcGuardCallback  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


class Told(transformers.TrainerCallback):
    """A logger, as those of W&B and TensorBoard: it gets what the trainer logs."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


def trainer(out: Path, callbacks: list[Any] | None = None, **options: Any) -> Any:
    """A trainer of a GPT-2 with one block on 16 random texts."""
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=31, bos_token_id=0,
        eos_token_id=0)
    texts = [{"input_ids": t, "labels": t}
             for t in torch.randint(0, 31, (16, 12), generator=torch.Generator().manual_seed(1))]
    arguments = transformers.TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=2, logging_steps=2,
        gradient_accumulation_steps=2, report_to=[], use_cpu=True, seed=0, disable_tqdm=True,
        **{"save_strategy": "no", "max_steps": 6, **options})
    return transformers.Trainer(
        transformers.GPT2LMHeadModel(config), arguments, train_dataset=texts,
        callbacks=callbacks)


def state_of(done: Any) -> Any:
    losses = [row["loss"] for row in done.state.log_history if "loss" in row]
    return bits_of([losses, dict(done.model.state_dict()), done.optimizer.state_dict()["state"],
                    torch.get_rng_state()])


def broken(first: int) -> KernelOverride:
    """``addmm`` is wrong in one element from this call on."""

    def spoil(info: Any, results: Any) -> None:
        if info.call_number >= first:
            results[0].view(-1)[3] += 1.0

    return KernelOverride(torch.ops.aten.addmm.default, spoil)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}])
def test_training_leaves_equal_bits_and_logs_what_was_checked(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = trainer(tmp_path, **options)
    plain.train()
    expected = state_of(plain)
    told = Told()
    guarded = trainer(tmp_path, [told], **options)
    callback = SdcGuardCallback(budget="all", on_finding="raise", out=tmp_path / "run")
    assert callback.add_to(guarded) is callback
    guarded.train()
    assert state_of(guarded) == expected
    assert callback.findings == []
    assert callback.coverage is not None
    assert callback.coverage.steps == 6
    assert callback.coverage.call_share > 0.9
    assert getattr(guarded.model, "sdc_guard", None) is None
    for row in (told.logs[0], guarded.state.log_history[0]):
        assert row["sdc_guard/findings"] == 0
        assert 0.9 < row["sdc_guard/calls_checked_share"] <= 1.0
        assert row["sdc_guard/overhead_share"] > 0.0
    (log,) = (tmp_path / "run").glob("events.rank*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[-1]["kind"] == "summary"
    assert any(e["kind"] == "progress" and e["loss"] for e in events)


def test_without_add_to_the_log_history_still_has_it(tmp_path: Path) -> None:
    done = trainer(tmp_path, [SdcGuardCallback(budget=0.5)])
    done.train()
    assert "sdc_guard/flops_checked_share" in done.state.log_history[0]


def test_a_finding_stops_and_saves_and_is_logged(tmp_path: Path) -> None:
    callback = SdcGuardCallback(budget="all", on_finding="skip", stop=True, save=True)
    told = Told()
    training = trainer(tmp_path, [told], max_steps=8, save_strategy="steps", save_steps=100)
    callback.add_to(training)
    with broken(first=60):
        training.train()
    stopped_at = training.state.global_step
    assert 1 < stopped_at < 8
    assert {f.verdict.value for f in callback.findings} == {"corruption"}
    assert all(f.module.startswith("transformer.") for f in callback.findings)
    assert told.logs[-1]["sdc_guard/corruption"] >= 1
    assert told.logs[-1]["sdc_guard/steps_skipped"] == 1
    saved = tmp_path / f"checkpoint-{stopped_at}"
    assert saved.is_dir()
    # The checkpoint is the state before the corrupt step: without a fault, of one step less.
    sound = trainer(tmp_path / "sound", max_steps=8)
    sound.add_callback(StopAt(stopped_at - 1))
    sound.train()
    weights = transformers.GPT2LMHeadModel.from_pretrained(saved)
    assert bits_of(dict(weights.state_dict())) == bits_of(dict(sound.model.state_dict()))


class StopAt(transformers.TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self.step


def test_what_is_raised_leaves_a_guard_that_the_next_training_replaces(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    callback = SdcGuardCallback(budget="all", on_finding="raise", out=tmp_path / "run")
    callback.add_to(training)
    with broken(first=20), pytest.raises(CorruptionDetected):
        training.train()
    first = callback.guard
    assert training.model.sdc_guard is first
    training.train()
    assert callback.guard is not first
    assert callback.findings == []
    with pytest.raises(CorruptionDetected), broken(first=20), callback:
        training.train()
    assert getattr(training.model, "sdc_guard", None) is None
    log = next((tmp_path / "run").glob("events.rank*.jsonl"))
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
    assert kinds.count("summary") == 3
    assert kinds.count("exception") == 1


def test_a_resumed_training_is_bit_identical_to_one_without_a_guard(tmp_path: Path) -> None:
    def resumed(out: Path, *, is_guarded: bool) -> Any:
        options = {"save_strategy": "steps", "save_steps": 3}
        for checkpoint in (None, str(out / "checkpoint-3")):
            training = trainer(out, **options)
            if is_guarded:
                SdcGuardCallback(budget="all").add_to(training)
            training.train(resume_from_checkpoint=checkpoint)
        return state_of(training)

    plain = resumed(tmp_path / "plain", is_guarded=False)
    assert resumed(tmp_path / "guarded", is_guarded=True) == plain


def test_the_package_imports_no_trainer() -> None:
    code = "import sdc_guard, sys; sdc_guard.Guard; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
