"""One call as data: what is called, with which operands, under which modes.

A trial is JSON from end to end and says every bit of the call, so it can be made again in another
process, on another instruction set, under another torch, or tomorrow.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from sdc_guard.errors import UsageError
from sdc_guard.records import Record

CONTIGUOUS = "contiguous"
STRIDED = "strided"


class Literal(Record, frozen=True, kw_only=True, tag="literal"):
    """Values by their bits: base64 of the little-endian elements in C order."""

    data: str

    @classmethod
    def of(cls, data: bytes) -> Literal:
        return cls(data=base64.b64encode(data).decode("ascii"))

    @property
    def bytes(self) -> bytes:
        return base64.b64decode(self.data)


class Fill(Record, frozen=True, kw_only=True, tag="fill"):
    """Values by a recipe of ``fills.KINDS``: scaled by ``2**exponent``, drawn with ``seed``, with
    single elements replaced (``edits``: place modulo the number of elements, name in
    ``fills.EDITS``), then brought into a ``domain`` of ``fills.DOMAINS`` that the call asks for."""

    kind: str
    exponent: int = 0
    seed: int = 0
    edits: tuple[tuple[int, str], ...] = ()
    domain: str = ""


class Within(Record, frozen=True, kw_only=True, tag="within"):
    """The values of ``fill``, fitted to what a trace has seen of an operand (``within.py``).

    Finite values lie in ``low`` .. ``high``, those that are not 0 have a magnitude of at least
    ``smallest``, and are integers where ``whole``.  ``zeros``, ``nans``, ``pos_infs`` and
    ``neg_infs`` are shares of the elements.  Of integer operands a share ``fillers`` is ``filler``
    (an index that means "ignore"), and they may be sorted, or all distinct.
    """

    fill: Fill
    low: int | float
    high: int | float
    smallest: float = 0.0
    whole: bool = False
    zeros: float = 0.0
    nans: float = 0.0
    pos_infs: float = 0.0
    neg_infs: float = 0.0
    filler: int = 0
    fillers: float = 0.0
    is_sorted: bool = False
    is_distinct: bool = False


class Layout(Record, frozen=True, kw_only=True):
    """How a tensor lies in memory: a name of ``layouts.LAYOUTS`` and its one number (an offset in
    elements, a step, the number of a permutation); or ``strided``, with ``strides`` and an offset
    in elements."""

    kind: str = CONTIGUOUS
    detail: int = 0
    strides: tuple[int, ...] = ()


class Operand(Record, frozen=True, kw_only=True, tag="tensor"):
    """A tensor.  ``free`` tells that its values and its layout may be changed without breaking a
    promise of the call (indices, a saved mean and an ``out=`` of the wrong dtype are not free);
    ``resizable`` that its shape may."""

    dtype: str
    shape: tuple[int, ...]
    values: Literal | Fill | Within
    layout: Layout = Layout()
    requires_grad: bool = False
    free: bool = True
    resizable: bool = True


class Alias(Record, frozen=True, kw_only=True, tag="alias"):
    """The very tensor that stands at position ``of`` among the operands (:meth:`Trial.operands`):
    ``out=`` that is an input."""

    of: int


class Scalar(Record, frozen=True, kw_only=True, tag="scalar"):
    """Anything that is no tensor; ``text`` is exact (floats as ``float.hex`` gives them)."""

    kind: str
    text: str = ""


class Items(Record, frozen=True, kw_only=True, tag="list"):
    """A list, or a tuple, of arguments."""

    items: tuple[Operand | Alias | Scalar | Items, ...]
    is_tuple: bool = False


Argument = Operand | Alias | Scalar | Items


class Modes(Record, frozen=True, kw_only=True):
    """What besides its arguments a call depends on.  ``autocast`` is a dtype or empty."""

    threads: int = 1
    autocast: str = ""
    inference: bool = False
    deterministic: bool = False
    mkldnn: bool = True


class Trial(Record, frozen=True, kw_only=True):
    """One call.  ``target``: an overload (``aten.sum.dim_IntList``) or a Python path
    (``torch.nn.functional.gelu``).  ``backward``: gradients are taken too, of the sum of all
    floating results times a fixed pattern."""

    target: str
    args: tuple[Argument, ...]
    kwargs: dict[str, Argument] = msgspec.field(default_factory=dict)
    modes: Modes = Modes()
    backward: bool = False
    device: str = "cpu"

    def operands(self) -> Iterator[Operand]:
        """The tensors in order: positional arguments, then keywords."""
        for argument in (*self.args, *self.kwargs.values()):
            yield from _operands(argument)

    def mapped(self, change: Callable[[int, Operand], Operand]) -> Trial:
        """The same trial with each operand, told by its position, replaced."""
        count = iter(range(1 << 30))

        def walk(argument: Argument) -> Argument:
            if isinstance(argument, Operand):
                return change(next(count), argument)
            if isinstance(argument, Items):
                return msgspec.structs.replace(argument, items=tuple(map(walk, argument.items)))
            return argument

        return msgspec.structs.replace(
            self, args=tuple(map(walk, self.args)),
            kwargs={name: walk(value) for name, value in self.kwargs.items()})

    @property
    def num_elements(self) -> int:
        """Elements of all operands."""
        return sum(num_elements(o.shape) for o in self.operands())

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the whole trial."""
        return hashlib.sha256(encode(self)).hexdigest()[:16]


def _operands(argument: Argument) -> Iterator[Operand]:
    if isinstance(argument, Operand):
        yield argument
    elif isinstance(argument, Items):
        for item in argument.items:
            yield from _operands(item)


def num_elements(shape: tuple[int, ...]) -> int:
    """The product of the sizes."""
    count = 1
    for size in shape:
        count *= size
    return count


def encode(trial: Trial) -> bytes:
    """The trial as JSON."""
    return msgspec.json.encode(trial)


def decode(text: bytes | str) -> Trial:
    """The trial of a JSON text.

    Raises:
        UsageError: if the text is no trial.
    """
    try:
        return msgspec.json.decode(text, type=Trial)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"this is no trial of a hunt: {error}") from error


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name without ``torch.``.

    Raises:
        UsageError: for a name that is none.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise UsageError(f"a trial holds an operand of dtype {name[:40]!r}, which this torch does "
                         "not have")
    return found


_NAMED = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def scalar(value: Any) -> Scalar:
    """An argument that is no tensor.

    Raises:
        UsageError: for a type that a trial cannot hold.
    """
    if value is None:
        return Scalar(kind="none")
    if isinstance(value, bool):
        return Scalar(kind="bool", text=str(value))
    if isinstance(value, int):
        return Scalar(kind="int", text=str(value))
    if isinstance(value, float):
        return Scalar(kind="float", text=value.hex())
    if isinstance(value, complex):
        return Scalar(kind="complex", text=f"{value.real.hex()} {value.imag.hex()}")
    if isinstance(value, str):
        return Scalar(kind="str", text=value)
    if isinstance(value, torch.device):
        return Scalar(kind="device", text=str(value))
    for kind, its_type in _NAMED.items():
        if isinstance(value, its_type):
            return Scalar(kind=kind, text=str(value).removeprefix("torch."))
    raise UsageError(f"an argument of type {type(value).__name__} cannot be part of a trial")


def value_of(item: Scalar) -> Any:
    """The Python value of a :class:`Scalar`.

    Raises:
        UsageError: for a kind of a later version.
    """
    text = item.text
    match item.kind:
        case "none":
            return None
        case "bool":
            return text == "True"
        case "int":
            return int(text)
        case "float":
            return float.fromhex(text)
        case "complex":
            real, imag = text.split()
            return complex(float.fromhex(real), float.fromhex(imag))
        case "str":
            return text
        case "device":
            return torch.device(text)
    if item.kind in _NAMED and isinstance(getattr(torch, text, None), _NAMED[item.kind]):
        return getattr(torch, text)
    raise UsageError(f"a trial holds an argument of kind {item.kind!r} ({text!r}), which this "
                     "version does not know")
