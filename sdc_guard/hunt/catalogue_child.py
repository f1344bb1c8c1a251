"""Reads torch's own operator catalogue; runs as a process of its own, because torch's test tools
change settings of the process that imports them.

``python -m sdc_guard.hunt.catalogue_child FILE`` writes a :class:`Catalogue` as JSON.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from sdc_guard.errors import UsageError
from sdc_guard.hunt import promises
from sdc_guard.hunt.catalogue import Catalogue, version_here
from sdc_guard.hunt.corners import names_of
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.targets import is_known
from sdc_guard.hunt.templates import Template, argument_of
from sdc_guard.hunt.trial import Argument, Items, Operand, Trial, num_elements

DTYPES = {"float32": 5, "bfloat16": 2, "float16": 2, "float64": 2, "complex64": 2, "int64": 2,
          "int32": 1, "uint8": 1, "bool": 1}
"""How many sample calls are kept in each dtype."""
LOOKED_AT = 24
MAX_ELEMENTS = 600
NUM_REPEATED = 3
"""Calls of an entry that are made twice, to see whether it draws random numbers."""
Place = tuple[int | str, ...]


def path_of(info: Any) -> str:
    """The Python path under which a user finds what an entry calls; empty where none names it."""
    overload = info.name.removeprefix("torch.ops.")
    if overload != info.name:
        return str(overload) if _named(torch.ops, overload) == info.op else ""
    for name in (info.name, info.name.removeprefix("torch.")):
        if _named(torch, name) == info.op:
            return f"torch.{name}"
    method = info.name.rpartition(".")[2]
    variant = info.method_variant
    if variant is not None and _named(torch.Tensor, method) == variant:
        return f"torch.Tensor.{method}"
    return ""


def _named(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part, None)
    return root


class Reader:
    """The templates of one entry."""

    def __init__(self, info: Any, path: str) -> None:
        self.info, self.path = info, path
        self.name = info.name + (f".{info.variant_test_name}" if info.variant_test_name else "")
        self.kept = promises.kept_by(info.name)
        self.packet = promises.packet_called(path)
        is_internal = is_known(path) and not promises.is_public(path)
        self.names = names_of(path) if is_internal else ()
        self.data: set[Place] = set()
        self.is_random = False
        self.num_taken = 0
        self.refusal = ""

    def templates(self) -> Iterator[Template]:
        forward = {str(d).removeprefix("torch.") for d in self.info.dtypes}
        backward = {str(d).removeprefix("torch.") for d in self.info.backward_dtypes}
        differs = self.info.supports_autograd
        for dtype, count in DTYPES.items():
            if dtype not in forward:
                continue
            is_number = dtype.startswith(("float", "bfloat", "complex"))
            try:
                samples = self._samples(dtype, differs and is_number and dtype in backward)
            except Exception as error:  # whatever torch's own sample functions raise
                self.refusal = f"its samples fail: {type(error).__name__}"
                continue
            if dtype == "float32":
                self.data = {place for s in samples for place, t in _tensors(s)
                             if t.is_floating_point()}
            for turn, sample in enumerate(_spread(samples, count)):
                yield from self._of_sample(sample, turn)

    def _samples(self, dtype: str, requires_grad: bool) -> list[Any]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        made = self.info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=requires_grad)
        return [s for s in islice(made, LOOKED_AT)
                if sum(t.numel() for _, t in _tensors(s)) <= MAX_ELEMENTS]

    def _of_sample(self, sample: Any, turn: int) -> Iterator[Template]:
        try:
            args = tuple(self._argument(v, (i,))
                         for i, v in enumerate((sample.input, *sample.args)))
            kwargs = {k: self._argument(v, (k,)) for k, v in sample.kwargs.items()}
        except UsageError as error:
            self.refusal = str(error)
            return
        trial = Trial(target=self.path, args=args, kwargs=kwargs)
        differs = any(o.requires_grad for o in trial.operands())
        plain = trial.mapped(lambda _, o: msgspec.structs.replace(o, requires_grad=False))
        shapes = self._taken(plain)
        if shapes is None:
            return
        yield self._template(msgspec.structs.replace(trial, backward=True)
                             if differs and turn % 2 == 0 else plain)
        if turn % 3 == 0 and self.info.supports_out and shapes:
            yield from self._with_out(plain, shapes)
        if turn % 3 == 1 or turn == 0:
            yield from self._in_place(plain)

    def _taken(self, trial: Trial) -> list[Operand] | None:
        """The results of the call, as operands; None where it is refused, draws random numbers, or
        returns what is no dense tensor."""
        torch.manual_seed(1)
        first = second = execute(trial, record=False)
        if self.num_taken < NUM_REPEATED:
            torch.manual_seed(2)
            second = execute(trial, record=False)
        self.refusal = first.refusal or self.refusal
        if first.refusal:
            return None
        for one, other in zip(first.results, second.results, strict=False):
            if one.layout is not torch.strided or one.is_quantized:
                self.refusal = "returns a tensor that is not dense"
                return None
            same = torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) \
                if one.is_floating_point() or one.is_complex() else torch.equal(one, other)
            self.is_random |= not same
        if self.is_random:
            return None
        self.num_taken += 1
        return [Operand(dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape),
                        values=promises.NOTHING, free=False) for t in first.results]

    def _with_out(self, trial: Trial, results: list[Operand]) -> Iterator[Template]:
        outs = tuple(promises.zeros(o) for o in results)
        out: Argument = outs[0] if len(outs) == 1 else Items(items=outs, is_tuple=True)
        made = msgspec.structs.replace(trial, kwargs={**trial.kwargs, "out": out})
        if not execute(made, record=False).refusal:
            yield self._template(made)

    def _in_place(self, trial: Trial) -> Iterator[Template]:
        variant = self.info.inplace_variant
        name = f"{self.info.name.rpartition('.')[2]}_"
        if variant is None or _named(torch.Tensor, name) != variant:
            return
        made = msgspec.structs.replace(trial, target=f"torch.Tensor.{name}")
        if not execute(made, record=False).refusal:
            yield self._template(made)

    def _argument(self, value: Any, place: Place) -> Argument:
        def is_free(path: tuple[int, ...], tensor: Tensor) -> bool:
            where = (*place, *path)
            name = place[0] if isinstance(place[0], str) else "".join(self.names[place[0]:][:1])
            if self.names and not promises.is_free(self.packet, name):
                return False
            if self.kept == "all" or (self.kept == "rest" and place != (0,)):
                return False
            if tensor.is_floating_point() or tensor.is_complex():
                return True
            return where in self.data or self.info.name in promises.INTEGER_DATA or (
                tensor.dtype is torch.bool and self.info.name in promises.MASKED)
        return argument_of(value, is_free=is_free)

    def _template(self, trial: Trial) -> Template:
        kind = type(self.info).__name__
        rule = {"UnaryUfuncInfo": "elementwise", "BinaryUfuncInfo": "elementwise",
                "ShapeFuncInfo": "", "ReductionOpInfo": "reduction"}.get(kind, "")
        domain = promises.PUBLIC_DOMAINS.get(self.info.name, "")
        domains = dict.fromkeys(range(len(list(trial.operands()))), domain) if domain else {}
        layouts = promises.layouts_of(self.packet)
        return Template(name=self.name, trial=trial, source="catalogue", rule=rule,
                        domains=domains, layouts=tuple(sorted(layouts or ())))


def _tensors(sample: Any) -> Iterator[tuple[Place, Tensor]]:
    def walk(value: Any, place: Place) -> Iterator[tuple[Place, Tensor]]:
        if isinstance(value, Tensor):
            yield place, value
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield from walk(item, (*place, i))

    for i, value in enumerate((sample.input, *sample.args)):
        yield from walk(value, (i,))
    for name, value in sample.kwargs.items():
        yield from walk(value, (name,))


def _spread(samples: list[Any], count: int) -> list[Any]:
    """So many of the samples, from first to last, with the ones that hold elements first."""
    samples = sorted(samples, key=lambda s: not any(num_elements(tuple(t.shape)) > 1
                                                    for _, t in _tensors(s)))
    if len(samples) <= count:
        return samples
    return [samples[i * len(samples) // count] for i in range(count)]


def read(infos: list[Any]) -> Catalogue:
    """All templates of the entries, and why some have none."""
    templates: list[Template] = []
    skipped: dict[str, str] = {}
    for info in infos:
        name = info.formatted_name
        path = path_of(info)
        if not path:
            skipped[name] = "no public name calls what the entry calls"
            continue
        if info.name in promises.NOT_HUNTED:
            skipped[name] = promises.NOT_HUNTED[info.name]
            continue
        reader = Reader(info, path)
        try:
            found = list(reader.templates())
        except Exception as error:  # whatever torch's own sample functions raise
            skipped[name] = f"its samples fail: {type(error).__name__}"
            continue
        if reader.is_random:
            skipped[name] = "draws random numbers, or returns what memory held"
        elif not found:
            skipped[name] = reader.refusal or "its samples are large"
        else:
            templates += found
    return Catalogue(version=version_here(), num_entries=len(infos), templates=tuple(templates),
                     skipped=skipped)


def _outside_of_tests() -> None:
    """Torch's iterators look through the whole stack, and all source files on it, for the test that
    they run in, several times for each entry and dtype.  There is none here, and it is most of the
    time: minutes."""
    from torch.testing._internal import common_utils
    from torch.testing._internal.opinfo import core

    for module in (common_utils, core):
        if hasattr(module, "extract_test_fn"):
            module.extract_test_fn = lambda: None  # type: ignore[attr-defined]


def main(path: str) -> None:
    """Write the catalogue of the installed torch to a file."""
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

    torch.set_num_threads(1)
    _outside_of_tests()
    catalogue = read(list(op_db))
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(catalogue))


if __name__ == "__main__":
    main(sys.argv[1])
