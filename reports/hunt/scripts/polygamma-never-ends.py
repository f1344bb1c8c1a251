"""torch.polygamma(n, x), n > 1, takes a step for each unit that x lies below 0: hours at -1e12."""

import subprocess
import sys

import torch

LIMIT_S = 60
CALL = "import torch; torch.polygamma(2, torch.tensor(-1e12 + 0.5, dtype=torch.float64))"
try:
    subprocess.run([sys.executable, "-c", CALL], timeout=LIMIT_S, check=True)
    wrong = False
    print("the call ended")
except subprocess.TimeoutExpired:
    wrong = True
    print(f"the call did not end in {LIMIT_S} s")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
