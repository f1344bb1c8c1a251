"""What changes numbers here: precision modes, switches, accumulators; and whether equal calls give
equal bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sdc_guard.doctor.line import FAIL, PASS, WARN, Line
from sdc_guard.evidence.variables import numeric_variables

NUM_REPEATS = 20
SIZE = 64
DTYPES = ("float32", "float64", "bfloat16", "float16")
NARROWING: dict[str, tuple[str, ...]] = {
    "DNNL_DEFAULT_FPMATH_MODE": ("BF16", "F16", "TF32", "ANY"),
    "NVIDIA_TF32_OVERRIDE": ("1",),
    "ONEDNN_DEFAULT_FPMATH_MODE": ("BF16", "F16", "TF32", "ANY"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("1",),
}
"""Variables, and their values (in capitals) under which float32 is not computed in float32."""


def lines() -> Iterator[Line]:
    """Precision, switches, accumulators, determinism."""
    yield precision()
    yield switches()
    yield from accumulators()
    yield determinism()


def precision() -> Line:
    """What `torch.set_float32_matmul_precision` allows."""
    import torch

    found = torch.get_float32_matmul_precision()
    if found != "highest":
        return Line(WARN, "precision", f"float32 products may run in a narrower format ({found!r})",
                    "bounds allow for it; torch.set_float32_matmul_precision('highest') is sharper")
    return Line(PASS, "precision", "float32 products run in float32")


def switches() -> Line:
    """Environment variables that change numbers and are set."""
    given = {name: value for name, value in numeric_variables().items() if value is not None}
    narrow = [f"{name}={given[name]}" for name, values in NARROWING.items()
              if given.get(name, "").upper() in values]
    if narrow:
        return Line(WARN, "switches", f"{', '.join(narrow)} narrows float32",
                    "unset it, unless the loss of precision is meant")
    told = ", ".join(f"{name}={value}" for name, value in given.items()) or "none is set"
    return Line(PASS, "switches", told)


def accumulators() -> Iterator[Line]:
    """How each device adds up products, one line for each thing that some of them do."""
    import torch

    from sdc_guard.check.probe import is_ieee, probe

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        found: dict[tuple[str, str, str], list[str]] = {}
        for way in probe(device):
            if way.failure:
                continue
            text = "fits no known model" if way.model is None else way.model.describe()
            odd = way.model is None or (way.kind == "float32" and not is_ieee(way.model))
            found.setdefault((WARN if odd else PASS, way.kind, text), []).append(way.route)
        for (level, kind, text), routes in found.items():
            yield Line(level, "accumulator", f"{device}, {kind}: {text} ({', '.join(routes)})",
                       "bounds of products may not hold there; please report it with this output"
                       if level == WARN else "")


def determinism() -> Line:
    """Equal calls, forward and backward, in each dtype and with one thread and with all."""
    import torch

    before = torch.get_num_threads()
    counts = sorted({1, before})
    broken: list[str] = []
    try:
        for num_threads in counts:
            torch.set_num_threads(num_threads)
            for name in DTYPES:
                broken += [f"{op} ({name}, {num_threads} threads) {count} of {NUM_REPEATS}"
                           for op, count in _num_other(getattr(torch, name))]
    finally:
        torch.set_num_threads(before)
    if broken:
        return Line(FAIL, "determinism", f"equal calls gave other bits: {', '.join(broken)}",
                    "this machine or this build of torch is not to be trusted; run it elsewhere")
    return Line(PASS, "determinism", f"{NUM_REPEATS} equal calls of {', '.join(OPERATIONS)} gave "
                f"equal bits, in {', '.join(DTYPES)}, with {' and '.join(map(str, counts))} "
                "threads")


OPERATIONS = ("mm", "sum", "softmax", "layer_norm", "conv2d", "backward")


def _num_other(dtype: object) -> Iterator[tuple[str, int]]:
    """Operations whose repeats differ, and how often."""
    import torch

    from sdc_guard.bits import bits_equal

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, SIZE, generator=generator).to(dtype)  # type: ignore[call-overload]
    image, filters = x.view(1, 4, SIZE // 4, SIZE), x[:8, :36].reshape(8, 4, 3, 3)

    def backward() -> Sequence[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        weight = x.clone().requires_grad_()
        out = torch.nn.functional.gelu(leaf @ weight).softmax(dim=-1)
        return torch.autograd.grad((out * x).sum(), (leaf, weight))

    calls: dict[str, Callable[[], Sequence[torch.Tensor]]] = {
        "mm": lambda: (x @ x,),
        "sum": lambda: (x.sum(dim=0),),
        "softmax": lambda: (x.softmax(dim=-1),),
        "layer_norm": lambda: (torch.nn.functional.layer_norm(x, (SIZE,)),),
        "conv2d": lambda: (torch.nn.functional.conv2d(image, filters),),
        "backward": backward,
    }
    assert tuple(calls) == OPERATIONS
    for name, call in calls.items():
        first = call()
        count = sum(not all(bits_equal(a, b) for a, b in zip(call(), first, strict=True))
                    for _ in range(NUM_REPEATS))
        if count:
            yield name, count
