"""The script of a finding: the guilty call alone, which needs torch and nothing else.

It prints what it got, what is right, the bits and the ulps, ends with ``WRONG`` or ``RIGHT``, and
exits with 1 or 0.  A script for a crash ends without either word where the call kills it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, flatten
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.exact import Exact
from sdc_guard.hunt.materialise import materialise
from sdc_guard.hunt.public_names import public_name
from sdc_guard.hunt.script_operands import NotWritableError, Source, spelled_argument
from sdc_guard.hunt.targets import is_overload
from sdc_guard.hunt.trial import Modes, Trial
from sdc_guard.records import Worst

_INT_VIEW = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a script shows: ``expected`` is what is right and where that comes from (``basis``),
    ``allowed`` the distance from it that a right result may have and why (``because``);
    ``attempts`` the calls that it makes because not each of them goes wrong."""

    expected: float | int | bool
    basis: str
    allowed: float
    because: str
    attempts: int = 1


def claim_of(divergence: Divergence, exact: Exact | None, attempts: int) -> Claim | None:
    """What there is to show; None where no right value is known."""
    worst = divergence.worst
    if worst is None:
        return None
    limit = worst.bound.limit if worst.bound is not None else 0.0
    because = divergence.formula or "exact"
    if exact is None:
        if divergence.expected is None:  # a broken fact: the element has no expected value
            return None
        return Claim(_number(worst.expected.repr), "float64 by another path", limit, because,
                     attempts)
    if math.isfinite(exact.nearest):
        kind: Any = worst.got.dtype
        value = (bool(exact.nearest) if kind == "bool" else
                 int(exact.nearest) if kind.startswith(("int", "uint")) else float(exact.nearest))
    else:
        value, limit = float(exact.nearest), 0.0
    return Claim(value, f"exact arithmetic: {exact.text}", limit, because, attempts)


def _number(text: str) -> float | int | bool:
    """The number of a ``repr``; 0 for none."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return math.nan


def script_of_call(
    divergence: Divergence, modes: Modes, claim: Claim, *, title: str
) -> str:
    """The script for a recorded call of an operator.

    Raises:
        NotWritableError: if the call or its operands do not fit into a short script.
    """
    seen, worst = divergence.observation, divergence.worst
    if seen is None or worst is None:
        raise NotWritableError("no operator's call was recorded, or no element of it is wrong")
    call = seen.call
    source = Source()
    source.add([t for _, t in call.tensors()])
    made = f"{public_name(call)}({call_arguments(call, source.names)})"
    element = f"{_result(call, worst.output, source)}[{_index(worst)}]"
    body = [*source.lines, f"result = {made}", f"element = {element}"]
    judge = _judged(claim, seen.held[worst.output])
    return assembled(title, source.imports, modes, claim, [*body, *judge])


def _index(worst: Worst) -> str:
    return ", ".join(map(str, worst.index)) or "..."


def call_arguments(call: BoundCall, names: dict[int, str]) -> str:
    """The arguments of a call as source; ``names`` are those of its tensors, by ``id``."""
    form, args = call.form, list(call.args)
    shown = [spelled_argument(a, names) for a in args]
    is_default = [
        schema.has_default_value() and not isinstance(a, Tensor) and repr(a) == repr(d)
        for a, d, schema in zip(args, form.defaults, form.op._schema.arguments, strict=True)]
    positional = form.num_positional
    while positional and is_default[positional - 1]:
        positional -= 1
    named = [f"{n}={s}" for n, s, d in zip(form.argument_names[form.num_positional:],
                                           shown[form.num_positional:],
                                           is_default[form.num_positional:], strict=True) if not d]
    return ", ".join([*shown[:positional], *named])


def _result(call: BoundCall, output: int, source: Source) -> str:
    """The expression of a flat result: an overwritten operand, or what the call returned."""
    written = [t for i in call.form.overwrites for t in flatten(call.args[i])]
    if output < len(written):
        return source.names[id(written[output])]
    returns = [r for r in call.form.op._schema.returns if r.alias_info is None]
    kinds = [str(r.type) for r in returns]
    if written and kinds and len(kinds) != len(call.form.op._schema.returns):
        raise NotWritableError("results are both returned and written")
    if kinds == ["Tensor"]:
        return "result"
    if kinds == ["Tensor[]"] or (kinds and all(k == "Tensor" for k in kinds)):
        return f"result[{output - len(written)}]"
    raise NotWritableError(f"results of the types {', '.join(kinds)}")


def _switches(modes: Modes) -> list[str]:
    lines = [f"torch.set_num_threads({modes.threads})"]
    if modes.deterministic:
        lines.append("torch.use_deterministic_algorithms(True)")
    if not modes.mkldnn:
        lines.append("torch.backends.mkldnn.set_flags(False)")
    return lines


def _judged(claim: Claim, held: Tensor) -> list[str]:
    """Lines that compare ``element`` and print what there is to see."""
    size = held.element_size()
    if size not in _INT_VIEW:
        raise NotWritableError(f"elements of {size} bytes")
    shown = f"element.view(torch.{_INT_VIEW[size]}).item() & 0x{'f' * 2 * size}"
    ulps = ""
    if is_covered_float(held.dtype) and math.isfinite(claim.expected):
        ulp = float(format_of(held.dtype).ulp(torch.tensor(float(claim.expected),
                                                           dtype=torch.float64).numpy()))
        ulps = f" = {{abs(got - expected) / {ulp!r}:.4g}} ulps"
    return ["got = element.item()",
             "wrong += not (got == expected or abs(got - expected) <= allowed",
             "              or (got != got and expected != expected))",
             f'print(f"got {{got!r}} (0x{{{shown}:0{2 * size}x}}), expected {{expected!r}}, "',
             f'      f"error {{abs(got - expected)!r}}{ulps}, allowed {{allowed!r}}")']


def assembled(
    title: str, imports: set[str], modes: Modes, claim: Claim | None, lines: list[str],
    before: tuple[str, ...] = (),
) -> str:
    """A whole script of lines that count in ``wrong`` what is wrong; those ``before`` stand behind
    the imports."""
    stated = []
    if claim is not None:
        stated = [f"expected = {_spelled(claim.expected)}  # {claim.basis}",
                  f"allowed = {_spelled(claim.allowed)}  # {claim.because}"]
    attempts = 1 if claim is None else claim.attempts
    if attempts > 1:
        lines = [f"for _ in range({attempts}):",
                 *(f"    {line}" for block in lines for line in block.split("\n"))]
    return "\n".join([
        f'"""{title}"""', "", *(f"import {name}" for name in sorted({*imports, "sys"})), "",
        "import torch", *before, "", *_switches(modes), *stated, "wrong = 0", *lines,
        'print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "',
        '      f"{torch.backends.cpu.get_cpu_capability()}:", "WRONG" if wrong else "RIGHT")',
        "sys.exit(1 if wrong else 0)", ""])


def _spelled(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


_TENSORS = (
    "", "",
    "def tensors(value):",
    "    if isinstance(value, torch.Tensor):",
    "        return [value]",
    "    is_list = isinstance(value, (list, tuple))",
    "    return [t for v in value for t in tensors(v)] if is_list else []", "",
)


def script_of_trial(trial: Trial, claim: Claim | None, divergence: Divergence, *, title: str,
                    seen: str = "") -> str:
    """The script for the whole call of a trial: one that ends the process, or that no single
    operator is guilty of.

    With a ``claim`` the worst element of the results and gradients is compared; without one it is
    ``WRONG`` where dtypes and shapes of the results print as ``seen``, and for a call that kills
    the process ``RIGHT`` where it comes to an end.

    Raises:
        NotWritableError: if the call or its operands do not fit into a short script.
    """
    made, modes, source = materialise(trial), trial.modes, Source()
    source.add(made.tensors)
    arguments = [spelled_argument(a, source.names) for a in made.args]
    arguments += [f"{k}={spelled_argument(v, source.names)}" for k, v in made.kwargs.items()]
    name = f"torch.ops.{trial.target}" if is_overload(trial.target) else trial.target
    module = "" if name.startswith("torch.") else name.rpartition(".")[0]
    call = [f"result = tensors({name}({', '.join(arguments)}))"]
    if trial.backward:
        call += _backward([source.names[id(t)] for t in made.tensors if t.requires_grad])
    if modes.autocast:
        call = [f'with torch.autocast("cpu", dtype=torch.{modes.autocast}):',
                *(f"    {line}" for line in call)]
    if modes.inference:
        call = ["with torch.inference_mode():", *(f"    {line}" for line in call)]
    worst = divergence.worst
    if claim is not None and worst is not None:
        held = torch.empty((), dtype=getattr(torch, worst.got.dtype))
        ends = [f"element = result[{worst.output}][{_index(worst)}]", *_judged(claim, held)]
    elif seen:
        ends = ["shown = str([(t.dtype, tuple(t.shape)) for t in result])",
                f"wrong += shown == {seen!r}", "print(shown)"]
    else:
        ends = []
    imports = {*source.imports, *([module] if module else [])}
    return assembled(title, imports, modes, claim, [*source.lines, *call, *ends], _TENSORS)


def _backward(leaves: list[str]) -> list[str]:
    """Gradients, appended to the results, for the incoming ones 1, -0.5, 1, -0.5, ..."""
    return ["outputs = [t for t in result if t.requires_grad]",
            "incoming = [torch.ones(t.numel(), dtype=t.dtype) for t in outputs]",
            "for g in incoming:",
            "    g[1::2] = -0.5",
            f"result += torch.autograd.grad(outputs, [{', '.join(leaves)}],",
            "    [g.reshape(t.shape) for g, t in zip(incoming, outputs)], allow_unused=True)"]
