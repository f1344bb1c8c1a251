"""What may be changed about a call of a trace: shapes, strides and arguments stay as they were, the
values become others of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sdc_guard.hunt.fills import KINDS
from sdc_guard.hunt.trial import Fill, Operand, Trial, Within

_KINDS = tuple(KINDS)


def near_trace(pick: Callable[[int], int], trial: Trial, max_threads: int) -> Trial:
    """The call on other values; ``pick`` draws a number from 0 up to, but not including, the one
    given.

    Operands that have figures get values within them, also those that are not free: that they keep
    to their figures is all that is known of these.
    """
    seed = pick(1 << 16)
    threads = trial.modes.threads if pick(4) < 3 else 1

    def changed(place: int, operand: Operand) -> Operand:
        if not isinstance(operand.values, Within):
            return operand
        fill = Fill(kind=_KINDS[pick(len(_KINDS))], seed=seed + 7 * place)
        within = msgspec.structs.replace(operand.values, fill=fill)
        return msgspec.structs.replace(operand, values=within)

    modes = msgspec.structs.replace(trial.modes, threads=min(threads, max_threads))
    return msgspec.structs.replace(trial.mapped(changed), modes=modes)
