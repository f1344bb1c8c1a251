"""Ground truth: what a fault changed, and how large that is in units of the operator's bound."""

from __future__ import annotations

from sdc_guard.records import Record, Value

SIZES = ("below 0.01", "0.01 to 0.1", "0.1 to 1", "1 to 2", "2 to 100", "above 100", "not finite",
         "no bound")
"""Size of a fault's largest error in units of the operator's contract bound; ``not finite``: an
element is or was NaN or infinite; ``no bound``: the operator has none there.  Where the bound is 0,
as for integers and copies, any change of a number is ``above 100``."""
_EDGES = (0.01, 0.1, 1.0, 2.0, 100.0)
MAX_FIRST_INDICES = 16


class InjectedFault(Record, frozen=True, kw_only=True):
    """Ground truth: one execution of a kernel whose result was changed, or one change of training
    state or of a batch (then ``op`` is empty).

    ``call_number`` counts executions of the op since the fault was entered, replays included;
    ``output`` is the place among the flat results (overwritten operands first).  ``flat_index``
    (C order) is the changed element, the first of ``num_wrong``; ``before``, ``after`` and
    ``size_ulps`` are its own (:func:`sdc_guard.inject.flip.size_ulps`).  ``bit`` is None where
    the model does not change a chosen bit.

    ``first_indices``: the first 16 changed elements.  ``num_not_finite``: changed elements that
    were or became NaN or infinite.  ``worst_index``: the first of those, else the element of the
    largest error, in units of the bound where there is one.  ``size_bounds``: that error,
    ``|after - before|`` over the operator's contract bound there (64-bit float, the largest finite
    one where the bound is 0); None where the operator has no bound there, where an element is not
    finite, and for all but the first change that a fault makes.  ``phase``: the part of the
    training step, empty where it is not known.  ``rate``: probability of the fault per execution,
    None where it is tied to a place, data or time.  ``inside``: the user's call during which the
    kernel ran; another operator than ``op`` where that one's kernel calls it, or where a detector
    does while it handles the call.
    """

    model: str
    op: str
    call_number: int
    output: int
    shape: tuple[int, ...]
    flat_index: int
    bit: int | None
    before: Value
    after: Value
    size_ulps: float | None
    num_wrong: int
    first_indices: tuple[int, ...] = ()
    num_not_finite: int = 0
    worst_index: int | None = None
    size_bounds: float | None = None
    phase: str = ""
    rate: float | None = None
    inside: str = ""


def size_class(fault: InjectedFault) -> str:
    """The one of :data:`SIZES` that the fault's largest error falls in."""
    if fault.num_not_finite:
        return "not finite"
    if fault.size_bounds is None:
        return "no bound"
    return SIZES[sum(fault.size_bounds >= edge for edge in _EDGES)]
