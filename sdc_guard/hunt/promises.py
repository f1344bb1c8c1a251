"""What an operator's callers promise of its operands: which may hold any numbers, and lie anyhow.

An operand that is not named here may hold nothing but what its caller computed: a saved mean, an
index, a factorization.  A call that breaks such a promise has no right result, so it is no finding.
"""

from __future__ import annotations

import inspect
from types import FunctionType

import msgspec
import torch

from sdc_guard.hunt import layouts
from sdc_guard.hunt.trial import Literal, Operand, num_elements

FREE = frozenset((
    "self", "other", "tensor1", "tensor2", "tensors1", "end", "mat", "mat1", "mat2", "vec", "vec1",
    "vec2", "tensor", "batch1", "batch2", "bias", "weight", "input", "grad_output", "grad_out",
    "grad", "query", "key", "value", "tensors", "src", "source", "values", "grads", "exp_avgs",
    "exp_avg_sqs", "max_exp_avg_sqs", "state_sums", "momentum_buffer_list", "target", "x1", "x2",
    "per_sample_weights", "A", "B", "data", "i1", "i2", "i3", "min", "max", "exponent", "a",
    "attn_mask", "elements", "test_elements",
))
"""Operands that may hold any numbers."""

POSITIVE = frozenset(("exp_avg_sqs", "max_exp_avg_sqs", "state_sums"))
"""Sums of squares."""

BOUND_TO_OTHERS: dict[str, frozenset[str]] = {
    "aten.cholesky": frozenset({"self"}),
    "aten.cholesky_inverse": frozenset({"self"}),
    "aten.cholesky_solve": frozenset({"input2"}),
    "aten.linalg_cholesky_ex": frozenset({"self"}),
    "aten.linalg_householder_product": frozenset({"input"}),
    "aten.ormqr": frozenset({"self"}),
    "aten._linalg_eigh": frozenset({"A"}),
    "aten.native_layer_norm_backward": frozenset({"input"}),
    "aten.native_group_norm_backward": frozenset({"input"}),
    "aten.native_batch_norm_backward": frozenset({"input"}),
    "aten.batch_norm_backward": frozenset({"input"}),
    "aten._scaled_dot_product_flash_attention_for_cpu_backward":
        frozenset({"query", "key", "value"}),
    "aten.binary_cross_entropy": frozenset({"self", "target"}),
    "aten.binary_cross_entropy_backward": frozenset({"self", "target"}),
    "aten._cdist_backward": frozenset({"x1", "x2"}),
    "aten._pdist_backward": frozenset({"self"}),
    "aten._segment_reduce_backward": frozenset({"data"}),
    "aten.mkldnn_rnn_layer_backward": frozenset({"input"}),
    "aten._amp_update_scale": frozenset({"self"}),
    "aten._prelu_kernel_backward": frozenset(),
}
"""Operands from which another operand of the same call was computed, or that are probabilities, or
symmetric, or positive definite."""

IN_ROWS = frozenset({"contiguous", "offset"})
"""Layouts whose last dimension lies side by side in memory."""
DENSE = frozenset({"contiguous"})
APART = frozenset(layouts.LAYOUTS) - {"overlapping"}
"""Layouts in which rows do not share memory."""

LAYOUTS: dict[str, frozenset[str]] = {
    **{f"aten._fused_{name}": IN_ROWS for name in ("adagrad", "adam", "adamw", "sgd")},
    "aten._scaled_dot_product_flash_attention_for_cpu": IN_ROWS,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": IN_ROWS,
    "aten.mkldnn_rnn_layer": DENSE,
    "aten.mkldnn_rnn_layer_backward": DENSE,
    "aten.native_group_norm": DENSE,
    "aten.native_group_norm_backward": DENSE,
}
"""Layouts in which the callers of internal kernels hand operands over (fused optimizers, attention,
recurrent layers, the gradient of group norm).  Such a kernel reads others as if they were these,
without an error."""


def is_free(packet: str, argument: str) -> bool:
    """True if the operand of that name may hold any numbers."""
    return argument in FREE and argument not in BOUND_TO_OTHERS.get(packet, ())


def layouts_of(packet: str) -> frozenset[str] | None:
    """The layouts that the operands of an operator may have; None for any.  Nobody hands windows
    that share memory to an internal one."""
    return LAYOUTS.get(packet, None if is_public(packet) else APART)


FIXED_SHAPES = frozenset({"convolution", "pool", "pooling", "upsample", "sampling", "recurrent",
                          "attention", "embedding", "norm", "loss", "padding", "copy", "indexing",
                          "distance", "linalg", "fourier"})
"""Families whose internal kernels take sizes that their callers have made fit."""


def may_resize(packet: str, family: str) -> bool:
    """True if the operator itself refuses shapes that do not fit together: what users call does,
    kernels behind it need not."""
    if packet in DIMS_KEPT:
        return False
    return is_public(packet) or family not in FIXED_SHAPES


DIMS_KEPT = frozenset({"aten._fft_c2r", "aten.segment_reduce"})
"""Kernels that are told a size besides the dimension, of the result or by offsets into the operand:
neither may change alone."""


NOTHING = Literal(data="")

DIVIDING = frozenset({"floor_divide", "remainder", "fmod", "div", "divide", "true_divide"})
SHIFTING = frozenset({"bitwise_left_shift", "bitwise_right_shift"})
RAISING = frozenset({"pow"})
REPEATABLE = frozenset({
    "gather", "index_select", "take", "take_along_dim", "embedding", "masked_fill", "masked_select",
    "where", "index_add", "scatter_add", "index_fill", "nll_loss", "cross_entropy", "bincount",
    "isin", "one_hot",
})
"""Functions whose indices, or masks, may repeat."""
REPEATED = frozenset({"index", "mask", "indices", "condition", "target"})
KEEPING = ("permuted", "stepped", "gapped", "offset")
"""Layouts in which each element keeps its value."""


def base_of(target: str) -> str:
    """``sum`` of ``aten.sum.dim_IntList``, ``aten.sum`` and ``torch.sum``, ``add`` of
    ``torch.Tensor.add_``."""
    parts = target.split(".")
    base = parts[1] if len(parts) == 3 and parts[0] != "torch" else parts[-1]
    return base if base.endswith("__") else base.removesuffix("_")


INTERNAL = ("_", "native_", "mkldnn_", "miopen_", "cudnn_", "fused_", "batch_norm_")
"""What names of operators begin with that other functions call for people."""
INTERNAL_TOO = frozenset({"rrelu_with_noise"})
"""Internal operators whose names do not tell."""


def is_public(target: str) -> bool:
    """True if users call the target (an overload, a packet or a Python path), and no other operator
    prepares its operands."""
    base = base_of(target)
    if base.startswith("__") and base.endswith("__"):
        return True
    return not (base.startswith(INTERNAL) or base in INTERNAL_TOO or "_backward" in base
                or base.endswith("_forward"))


def packet_called(target: str) -> str:
    """The packet whose promises hold for a target: ``aten.native_group_norm`` for that packet, its
    overloads and ``torch.native_group_norm``; empty for Python paths that are no operator."""
    parts = target.split(".")
    if parts[0] != "torch":
        return ".".join(parts[:2])
    base = base_of(target)
    is_operator = parts[1:-1] in ([], ["Tensor"]) and hasattr(torch.ops.aten, base)
    return f"aten.{base}" if is_operator else ""


def hands_on_out(packet: str) -> bool:
    """True if people may give the operator an ``out=``: it is public, and is not known to them by a
    function of ``torch.nn.functional`` that takes none."""
    base = base_of(packet)
    function = getattr(torch.nn.functional, base, None)
    return is_public(packet) and (
        hasattr(torch, base) or not isinstance(function, FunctionType)
        or "out" in inspect.signature(function).parameters)


def are_bound(target: str, operands: list[Operand]) -> bool:
    """True if the other arguments of an internal call belong to its ``operands`` too: what is kept
    of them was computed with these very flags and numbers (``eps`` of a saved deviation, the
    direction of a workspace).  An index alone was not, but in a gradient."""
    if is_public(target):
        return False
    kept = [o for o in operands if not o.free]
    return any("_backward" in target or not (o.dtype == "bool" or o.dtype in ("int32", "int64"))
               for o in kept)


def promised_domains(target: str, operands: list[Operand]) -> dict[int, str]:
    """``fills.DOMAINS`` of the second operand of integer arithmetic, and of degrees."""
    base = base_of(target)
    if "_polynomial_" in base and len(operands) > 1:
        return {1: "small power"}  # the degree: what a kernel takes grows with it
    domain = "divisor" if base in DIVIDING else "count of bits" if base in SHIFTING else \
        "small power" if base in RAISING else ""
    if not domain or len(operands) < 2 or not _is_integer(operands[1]):
        return {}
    return {1: domain}


def _is_integer(operand: Operand) -> bool:
    return operand.dtype.startswith(("int", "uint"))


def kept_layouts(
    target: str, names: list[str], operands: list[Operand], shapes: dict[int, tuple[int, ...]]
) -> dict[int, tuple[str, ...]]:
    """The layouts of operands whose values must stay, by place: any that keep values where users
    hand the operands over themselves, and the same index again where it may repeat."""
    if not is_public(target):
        return {}
    found: dict[int, tuple[str, ...]] = {}
    for place, (name, operand) in enumerate(zip(names, operands, strict=False)):
        if operand.free or place in shapes:
            continue
        again = base_of(target) in REPEATABLE and name in REPEATED and (
            operand.dtype == "bool" or _is_integer(operand))
        found[place] = (*KEEPING, "expanded") if again else KEEPING
    return found


def zeros(operand: Operand) -> Operand:
    """The operand with zeros for values."""
    num_bytes = num_elements(operand.shape) * getattr(torch, operand.dtype).itemsize
    return msgspec.structs.replace(operand, values=Literal.of(bytes(num_bytes)))


INTEGER_DATA = frozenset({
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "gcd", "lcm", "bitwise_left_shift",
    "bitwise_right_shift", "floor_divide", "remainder", "fmod", "pow", "float_power", "abs", "neg",
    "sign", "square", "add", "sub", "mul", "maximum", "minimum", "eq", "lt", "le", "gt", "ge", "ne",
    "sum", "prod", "cumsum", "cumprod", "clamp", "sort", "topk", "mm", "dot", "mv", "addmm", "bmm"})
"""Entries of torch's catalogue whose integers are numbers, and no indices."""

MASKED = frozenset({"where", "masked_fill", "masked_select", "logical_and", "logical_or",
                    "logical_xor", "logical_not", "any", "all"})
"""Entries whose booleans may be any."""

ALL_KEPT = frozenset({
    "cholesky", "cholesky_inverse", "cholesky_solve", "linalg.cholesky", "linalg.cholesky_ex",
    "linalg.householder_product", "ormqr", "linalg.eigh", "linalg.eigvalsh", "lu_solve",
    "lu_unpack", "linalg.lu_solve", "linalg.ldl_factor", "linalg.ldl_factor_ex", "linalg.ldl_solve",
    "bucketize", "searchsorted", "histogramdd", "histogram", "histc", "bernoulli",
    "nn.functional.ctc_loss", "nn.functional.gaussian_nll_loss", "geqrf", "istft", "stft",
    "nn.functional.embedding_bag", "segment_reduce", "torch.segment_reduce", "lobpcg",
    "torch.ops.aten._efficient_attention_forward", "torch.ops.aten._flash_attention_forward",
    "nanquantile", "quantile", "linalg.pinv", "nn.functional.multi_head_attention_forward",
    "linalg.tensorinv", "linalg.tensorsolve", "polar", "tensor_split", "repeat_interleave",
})
"""Entries whose operands belong together, or are sorted, or positive definite."""

REST_KEPT = frozenset({
    "native_batch_norm", "nn.functional.batch_norm", "nn.functional.instance_norm",
    "_native_batch_norm_legit", "batch_norm", "nn.functional.grid_sample", "grid_sampler_2d",
    "grid_sampler_3d", "ldexp",
    "nn.functional.nll_loss", "nn.functional.cross_entropy",
})
"""Entries of which nothing but the first operand may change: running statistics, grids, weights of
classes."""

PUBLIC_DOMAINS = {"nn.functional.binary_cross_entropy": "0 to 1"}
"""Entries whose operands are probabilities."""

NOT_HUNTED = {
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
                     "empty_permuted"), "returns what memory held"),
    **dict.fromkeys(("resize_", "resize_as_", "item", "to_sparse"), "returns no dense tensor"),
}
"""Entries whose results nobody can judge."""


def kept_by(entry: str) -> str:
    """Which operands of an entry must stay as sampled: ``all``, the ``rest`` behind the first, or
    none (empty)."""
    return "all" if entry in ALL_KEPT else "rest" if entry in REST_KEPT else ""
