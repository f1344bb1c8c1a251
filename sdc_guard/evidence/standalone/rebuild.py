"""Rebuild the recorded call: its operator, its arguments, its operands bit for bit."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .archive import Contents, Unreadable

MAX_ALIGNMENT_BYTES = 64
_OP_NAME = re.compile(r"([A-Za-z_]\w*)::([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_REFUSED_NAMESPACES = frozenset(
    {"prim", "profiler", "debugprims", "debug_mode_ops", "export", "c10d", "_c10d_functional",
     "_c10d_functional_autograd", "symm_mem"}
)


def resolve_op(name: str) -> Any:
    """The registered ``OpOverload`` of a name such as ``aten::mm.default``; nothing is evaluated.

    Raises:
        Unreadable: if the name is malformed or not registered here, or if the operator reads or
            writes files or neither returns nor overwrites a tensor (such calls are never repeated).
    """
    match = _OP_NAME.fullmatch(name)
    if match is None:
        raise Unreadable(f"operator name {name!r} is not of the form namespace::name.overload")
    namespace, base, overload = match.groups()
    wanted = "" if overload == "default" else overload
    schemas = torch._C._jit_get_schemas_for_operator(f"{namespace}::{base}")
    if not any(schema.overload_name == wanted for schema in schemas):
        raise Unreadable(
            f"operator {name} is not registered here (torch {torch.__version__}): import the "
            "module that registers it first, or use the torch version of the bundle"
        )
    op = getattr(getattr(getattr(torch.ops, namespace), base), overload)
    arguments = op._schema.arguments
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in arguments)
    returns = any("Tensor" in str(r.type) for r in op._schema.returns)
    touches_files = any(a.name == "filename" for a in arguments)
    if namespace in _REFUSED_NAMESPACES or touches_files or not (writes or returns):
        raise Unreadable(f"operator {name} acts on more than tensors and is never repeated")
    return op


def _named(kind: type) -> dict[str, Any]:
    return {str(v).removeprefix("torch."): v for v in vars(torch).values() if isinstance(v, kind)}


_CONSTANTS = {
    "dtype": _named(torch.dtype),
    "layout": _named(torch.layout),
    "memory_format": _named(torch.memory_format),
}


def _float(bits: str) -> float:
    return float(struct.unpack("<d", int(bits, 16).to_bytes(8, "little"))[0])


def decode(value: Any, tensors: list[Tensor], move: Callable[[str], str]) -> Any:
    """The argument that one tagged JSON value stands for; ``move`` maps device names."""
    kind = value["kind"]
    if kind == "tensor":
        return tensors[value["index"]]
    if kind == "none":
        return None
    if kind in ("bool", "int", "str"):
        return {"bool": bool, "int": int, "str": str}[kind](value["value"])
    if kind == "float":
        return _float(value["bits"])
    if kind == "complex":
        return complex(_float(value["real"]), _float(value["imag"]))
    if kind == "device":
        return torch.device(move(value["name"]))
    if kind in ("list", "tuple"):
        items = [decode(item, tensors, move) for item in value["items"]]
        return items if kind == "list" else tuple(items)
    if kind in _CONSTANTS:
        return _CONSTANTS[kind][value["name"]]
    raise Unreadable(f"an argument has the unknown kind {kind!r}")


def _place(data: bytes, alignment: int, pad: int, device: torch.device) -> tuple[Any, int]:
    """A storage that holds ``data``, and the byte at which it starts there."""
    if not (0 <= alignment < MAX_ALIGNMENT_BYTES and 0 <= pad < MAX_ALIGNMENT_BYTES):
        raise Unreadable(f"alignment of {alignment} bytes behind a pad of {pad} bytes, "
                         f"limit {MAX_ALIGNMENT_BYTES - 1} each")
    if device.type == "cpu":
        memory = bytearray(len(data) + 2 * MAX_ALIGNMENT_BYTES)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = pad + (alignment - address - pad) % MAX_ALIGNMENT_BYTES
        memory[start : start + len(data)] = data
        count = pad + len(data)
        view = torch.frombuffer(memory, dtype=torch.uint8, count=count, offset=start - pad)
        return view.untyped_storage(), pad
    flat = torch.empty(len(data) + alignment, dtype=torch.uint8, device=device)
    flat[alignment:].copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return flat.untyped_storage(), alignment


def build_operands(contents: Contents, move: Callable[[str], str]) -> list[Tensor]:
    """Fresh operand tensors: bits, shapes, strides, alignment and sharing as recorded.

    Raises:
        Unreadable: if a tensor reaches outside its recorded bytes.
    """
    table = contents.manifest["operands"]
    storages: dict[tuple[int, str], tuple[Any, int]] = {}
    built = []
    for entry in table["tensors"]:
        dtype, name = _CONSTANTS["dtype"][entry["dtype"]], move(entry["device"])
        shape, stride = tuple(entry["shape"]), tuple(entry["stride"])
        if entry["region"] is None and 0 in shape:
            built.append(torch.empty_strided(shape, stride, dtype=dtype, device=name))
            continue
        region = table["regions"][entry["region"]]
        data = contents.members[region["member"]]
        itemsize = torch.empty(0, dtype=dtype).element_size()
        reach = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        last = entry["offset_bytes"] + reach * itemsize
        if min(0, entry["offset_bytes"], *shape, *stride) < 0 or last > len(data):
            raise Unreadable(
                f"{contents.path}: a tensor of shape {shape} and stride {stride} ends at byte "
                f"{last} of {region['member']}, which has {len(data)} bytes"
            )
        key = (entry["region"], name)
        if key not in storages:
            storages[key] = _place(data, region["alignment_bytes"], region["pad_bytes"],
                                   torch.device(name))
        storage, start = storages[key]
        offset, rest = divmod(start + entry["offset_bytes"], itemsize)
        if rest:
            raise Unreadable(f"{contents.path}: an operand of {dtype} cannot start at this byte")
        built.append(torch.empty(0, dtype=dtype, device=name).set_(storage, offset, shape, stride))
    return built


def build_result(contents: Contents, entry: dict[str, Any] | None) -> Tensor | None:
    """One recorded result, contiguous, on the CPU; None where none is recorded."""
    if entry is None:
        return None
    dtype, shape = _CONSTANTS["dtype"][entry["dtype"]], tuple(entry["shape"])
    data = contents.members[entry["member"]]
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def moves(contents: Contents, device: str | None) -> Callable[[str], str]:
    """Maps the device on which the call ran to ``device``; other devices stay.

    CPU operands of a call that ran elsewhere (step counters, scalars) stay on the CPU.
    """
    names = [t["device"] for t in contents.manifest["operands"]["tensors"]]
    main = next((n for n in names if n != "cpu"), "cpu")
    return lambda name: device if device is not None and name == main else name


def arguments_of(contents: Contents, op: Any, device: str | None) -> tuple[Any, ...]:
    """All arguments of the recorded call in the order of the schema, on fresh memory."""
    move = moves(contents, device)
    tensors = build_operands(contents, move)
    recorded = {a["name"]: decode(a["value"], tensors, move)
                for a in contents.manifest["arguments"]}
    schema = op._schema.arguments
    unknown = set(recorded) - {a.name for a in schema}
    if unknown:
        raise Unreadable(f"{contents.path}: {op} takes no argument {sorted(unknown)} here "
                         f"(torch {torch.__version__}); use the torch version of the bundle")
    return tuple(recorded.get(a.name, a.default_value) for a in schema)


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in ([None] if item is None else _flatten(item))]
    return []


def make_call(op: Any, args: tuple[Any, ...]) -> list[Tensor | None]:
    """Overwritten operands, then new tensors, of ``op`` called with ``args`` in schema order;
    None for an output that was masked out."""
    schema = op._schema.arguments
    n = sum(not a.kwarg_only for a in schema)
    returned = op(*args[:n], **{a.name: v for a, v in zip(schema[n:], args[n:], strict=True)})
    written = [t for a, v in zip(schema, args, strict=True)
               if a.alias_info is not None and a.alias_info.is_write for t in _flatten(v)]
    seen = {id(t) for t in written}
    return [*written, *(t for t in _flatten(returned) if id(t) not in seen)]
