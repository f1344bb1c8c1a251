"""What is measured: the sizes that the figures are asked for, and tiny ones for an interpreter."""

from __future__ import annotations

from dataclasses import dataclass

from sdc_guard.bench.gpu.figures import FULL, TINY


@dataclass(frozen=True)
class GptSizes:
    """A GPT and its batches.  ``context`` is also the length of each of ``batch_size`` rows."""

    num_layers: int
    width: int
    num_heads: int
    vocab_size: int
    context: int
    batch_size: int


@dataclass(frozen=True)
class Sizes:
    """``product`` is the edge of the square factors.  ``rounds``, ``step_rounds`` and
    ``call_rounds`` are the most that is measured of one figure, where time allows;
    ``longest_turn`` the most steps that are timed as one."""

    copy_bytes: tuple[int, ...]
    product: int
    gpt: GptSizes
    rounds: int
    step_rounds: int
    call_rounds: int
    longest_turn: int
    warmup_steps: int


SIZES = {
    FULL: Sizes(
        copy_bytes=(1 << 28, 1 << 30, 1 << 31, 1 << 32), product=8192,
        gpt=GptSizes(24, 1024, 16, 50257, 1024, 8),
        rounds=100, step_rounds=60, call_rounds=25, longest_turn=10,
        warmup_steps=3),
    TINY: Sizes(
        copy_bytes=(1 << 12, 1 << 14), product=32, gpt=GptSizes(1, 8, 2, 33, 4, 1),
        rounds=2, step_rounds=2, call_rounds=1, longest_turn=1, warmup_steps=1),
}
