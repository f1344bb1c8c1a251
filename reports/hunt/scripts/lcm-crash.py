"""torch.lcm ends the process with SIGFPE where an operand is the smallest integer of its dtype."""

import subprocess
import sys

import torch

CALL = """
import torch
a, b = torch.tensor([-2**31, 2**31 - 1], dtype=torch.int32)
torch.lcm(a, b)
"""
code = subprocess.run([sys.executable, "-c", CALL]).returncode
print(f"exit code {code}, expected 0 (a result or an exception that can be caught)")
print(f"torch {torch.__version__}:", "WRONG" if code < 0 else "RIGHT")
sys.exit(1 if code < 0 else 0)
