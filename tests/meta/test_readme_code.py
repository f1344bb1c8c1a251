"""The README's Python runs as it stands, around a model and a loop such as a reader has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.meta.tree import ROOT

READER = """
import torch

torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters())

def train_step():
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
LOOP = re.compile(r"^\.\.\. # your loop.*$", re.MULTILINE)


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", READER + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_block_runs(tmp_path: Path) -> None:
    blocks = readme_blocks()
    assert len(blocks) == 3
    code, num_loops = LOOP.subn("train_step(); train_step()", "\n".join(blocks))
    assert num_loops == 1
    check = "\nassert guard.coverage.calls_checked > 0, guard.coverage\nassert not guard.findings\n"
    check += "own, _, batch, loss = build()\nloss(own, batch(0)).backward()\n"
    done = run(code + "\nsdc_guard.unwrap(model)" + check, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    assert "NameError" in run("train_stepp()", tmp_path).stderr
