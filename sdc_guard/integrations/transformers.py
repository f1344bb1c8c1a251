"""``SdcGuardCallback``: the guard in a ``transformers.Trainer``.

>>> from sdc_guard.integrations.transformers import SdcGuardCallback
>>> callback = SdcGuardCallback(budget=0.02, on_finding="skip").add_to(trainer)  # doctest: +SKIP
>>> trainer.train()  # doctest: +SKIP
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sdc_guard import Coverage, Finding, Guard, unwrap, wrap

PREFIX = "sdc_guard/"


class SdcGuardCallback(TrainerCallback):
    """Guards the model while it trains, evaluations in between included.

    Findings and shares go through the trainer's own logging as ``sdc_guard/findings``,
    ``sdc_guard/corruption``, ``sdc_guard/calls_checked_share``, ``sdc_guard/flops_checked_share``,
    ``sdc_guard/overhead_share`` and ``sdc_guard/steps_skipped``.  A trainer tells its loggers first
    and then the callbacks that it was given, so :meth:`add_to` puts this one in front; given by
    ``Trainer(callbacks=[...])`` it still reaches ``state.log_history`` and the console.

    Args:
        stop: end the training after the step in which a finding counts (see ``act_on``).
        save: write a checkpoint after that step.  With ``on_finding="skip"`` it holds the state
            from before the corrupt step, else the state that the corrupt step has left.
        options: those of :class:`sdc_guard.Guard`: ``budget``, ``on_finding``, ``out``, ...

    A training that ends in an exception tells its callbacks nothing: the guard then stays on until
    the next ``train()``, :meth:`close`, the end of a ``with`` block around the training, or the end
    of the process, each of which writes its summary.
    """

    def __init__(self, *, stop: bool = False, save: bool = False, **options: Any) -> None:
        self.guard: Guard | None = None
        """Of the last training, also after its end."""
        self._options = options
        self._act_on = tuple(options.get("act_on", ("corruption",)))
        self._stop = stop
        self._save = save
        self._model: nn.Module | None = None
        self._num_counted = 0

    def add_to(self, trainer: Trainer) -> SdcGuardCallback:
        """Put this callback before the trainer's loggers, so that they log what it adds."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    @property
    def findings(self) -> list[Finding]:
        return self.guard.findings if self.guard is not None else []

    @property
    def coverage(self) -> Coverage | None:
        return self.guard.coverage if self.guard is not None else None

    def close(self) -> None:
        """Take the guard off the model, if it is still on."""
        model, self._model = self._model, None
        if model is not None:
            unwrap(model)

    def __enter__(self) -> SdcGuardCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._model is not None and self.guard is not None:
            self.guard.note_exception(error)
        self.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any,
    ) -> None:
        """Wrap the model; a training that began before and never ended is closed first."""
        self.close()
        self._model = wrap(kwargs["model"], **self._options)
        self.guard = self._model.sdc_guard  # type: ignore[assignment]
        self._num_counted = 0

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any,
    ) -> None:
        """Unwrap the model."""
        self.close()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any,
    ) -> None:
        """Stop or save if a finding of this step counts."""
        if not self._stop and not self._save:
            return
        counted = sum(f.repeats for f in self.findings
                      if f.verdict.value in self._act_on and f.held_is_wrong)
        if counted > self._num_counted:
            self._num_counted = counted
            control.should_training_stop |= self._stop
            control.should_save |= self._save

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:
        """Add what the guard has seen to what is logged, and tell it the loss."""
        guard = self.guard
        if guard is None or self._model is None or logs is None:
            return
        loss = logs.get("loss")
        if isinstance(loss, float):
            guard.note_loss(loss)
        seen = self._metrics(guard)
        logs.update(seen)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(seen)

    @staticmethod
    def _metrics(guard: Guard) -> dict[str, float]:
        coverage, findings = guard.coverage, guard.findings
        return {PREFIX + name: value for name, value in {
            "findings": sum(f.repeats for f in findings),
            "corruption": sum(f.repeats for f in findings if f.verdict.value == "corruption"),
            "calls_checked_share": coverage.call_share,
            "flops_checked_share": coverage.flop_share,
            "overhead_share": coverage.overhead_share,
            "steps_skipped": coverage.steps_skipped,
        }.items()}
