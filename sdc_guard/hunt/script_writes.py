"""The script of a call that writes beside the elements of its ``out=``.

The memory around each result is full of one number; the script counts where it is another one after
the call.
"""

from __future__ import annotations

from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.public_names import public_name
from sdc_guard.hunt.script import assembled, call_arguments
from sdc_guard.hunt.script_operands import NotWritableError, Source
from sdc_guard.hunt.trial import Modes


def script_of_writes(call: BoundCall, modes: Modes, *, title: str) -> str:
    """The script for a recorded call with ``out=``.

    Raises:
        NotWritableError: if an operand does not fit into a short script, or there is no result.
    """
    written = [call.args[i] for i in call.form.overwrites]
    if not written or not all(isinstance(t, Tensor) for t in written):
        raise NotWritableError("the results are no list of tensors")
    source = Source()
    source.add([t for path, t in call.tensors() if path[0] not in call.form.overwrites])
    names = source.names | {id(t): f"outs[{i}]" for i, t in enumerate(written)}
    kinds = ", ".join(f"({tuple(t.shape)}, {tuple(t.stride())}, {t.dtype})" for t in written)
    return assembled(title, source.imports, modes, None, [
        *source.lines, "memory, outs, outside = [], [], []",
        f"for shape, strides, dtype in [{kinds}]:",
        "    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides))",
        "    memory.append(torch.full((3 * reach + 64,), 77).to(dtype))",
        "    outs.append(memory[-1].as_strided(shape, strides, reach + 32))",
        "    outside.append(torch.ones(3 * reach + 64, dtype=torch.bool))",
        "    outside[-1].as_strided(shape, strides, reach + 32).fill_(False)",
        f"{public_name(call)}({call_arguments(call, names)})",
        "for block, others in zip(memory, outside):",
        "    overwritten = int((block[others] != block[-1]).sum())",
        "    wrong += overwritten",
        '    print(f"{overwritten} elements beside out= were overwritten, expected 0")'])
