"""A finding as a pytest test that fails as long as the call is wrong; it needs torch and pytest."""

from __future__ import annotations

import re

from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.repetition import LOUD

_SWITCH = "torch.set_num_threads("
_END = 'print(f"torch {torch.__version__}'
_RESTORED = {
    _SWITCH: "torch.set_num_threads(threads)",
    "torch.use_deterministic_algorithms(True)": "torch.use_deterministic_algorithms(False)",
    "torch.backends.mkldnn.set_flags(False)": "torch.backends.mkldnn.set_flags(True)",
}


def test_name(found: FoundDivergence) -> str:
    """``test_aten_sum_float32_0123abcd``: the file's name, and the function's."""
    text = f"{found.op} {found.dtype_class} {found.fingerprint[:8]}"
    return "test_" + re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()


def test_of(found: FoundDivergence) -> str:
    """The test as text; empty where the finding has no script."""
    if not found.script:
        return ""
    told = f"{found.word}, found by the oracle {found.oracle!r} of sdc-guard hunt; {found.link}"
    if found.word in LOUD:
        return _in_a_process(found, told.removesuffix("; "))
    head, _, rest = found.script.partition(f"\n{_SWITCH}")
    title, _, imports = head.partition("\n")
    body = (_SWITCH + rest[: rest.index(_END)]).rstrip().split("\n")
    lines = [
        f'{title[:-3]}\n\n{told.removesuffix("; ")}.\n"""', imports.replace("import sys\n", ""), "",
        "", f"def {test_name(found)}() -> None:", "    threads = torch.get_num_threads()",
        "    try:", *(f"        {line}" for line in body), "    finally:",
        *(f"        {undo}" for switch, undo in _RESTORED.items()
          if any(line.startswith(switch) for line in body)),
        "    assert not wrong, \"the call is wrong; what it gave is printed above\"", ""]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines))


def _in_a_process(found: FoundDivergence, told: str) -> str:
    """A call that may end the process is made in one of its own."""
    return "\n".join([
        f'"""{told}."""', "", "import subprocess", "import sys", "",
        f"SCRIPT = {found.script!r}", "", "", f"def {test_name(found)}() -> None:",
        "    done = subprocess.run([sys.executable, \"-c\", SCRIPT], timeout=120)",
        "    assert done.returncode == 0", ""])
