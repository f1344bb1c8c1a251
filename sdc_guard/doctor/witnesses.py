"""What can be checked here, and whether each witness sees a bit that is flipped on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sdc_guard.doctor.line import FAIL, PASS, Line

WITNESSES = ("replay", "reference", "residual", "checksum", "invariant")


def lines() -> Iterator[Line]:
    """Operators, witnesses, kernels."""
    yield operators()
    yield from self_test()
    yield from kernels()


def operators() -> Line:
    """How many can be checked, and by what."""
    from sdc_guard.ops import all_specs

    specs = all_specs()
    counts = Counter(witness for spec in specs for witness in spec.witnesses)
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    if not specs:
        return Line(FAIL, "operators", "no operator has a witness",
                    "the installation is damaged; install the package again")
    return Line(PASS, "operators", f"{len(specs)} have witnesses ({told}); all others of ATen are "
                "repeated")


def self_test() -> Iterator[Line]:
    """A flip planted in a copy, for each witness."""
    from sdc_guard.check.selftest import dead_witnesses

    dead = dead_witnesses()
    for witness in sorted({*WITNESSES, *dead}):
        if witness in dead:
            yield Line(FAIL, "witness", f"{witness} missed a planted flip, or complained of none",
                       "it is not used on this machine; please report it with this output")
        else:
            yield Line(PASS, "witness", f"{witness} saw the flip that was planted in a copy")


def kernels() -> Iterator[Line]:
    """The Triton kernels on each CUDA device."""
    import torch

    from sdc_guard.check.selftest import kernel_is_alive

    if not torch.cuda.is_available():
        yield Line(PASS, "kernels", "not used: they check what is on a CUDA device")
        return
    for i in range(torch.cuda.device_count()):
        device = torch.device("cuda", i)
        try:
            alive, why = kernel_is_alive(device), "missed a planted flip, or doubted a right result"
        except Exception as error:  # a launch that fails there is what is asked about
            alive, why = False, f"{type(error).__name__}: {error}"
        if alive:
            yield Line(PASS, "kernels", f"{device}: they saw the flip that was planted in a copy")
        else:
            yield Line(FAIL, "kernels", f"{device}: {why}",
                       "they are not used there, the host checks; please report it")
