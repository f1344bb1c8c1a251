"""torch.baddbmm(x, a, b, beta=-1, alpha=0) in half formats: -x, whatever a and b hold."""

import sys

import torch

wrong = 0
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    a, b = torch.ones(5, 5, 5, dtype=dtype), torch.ones(5, 5, 33, dtype=dtype)
    x = torch.ones(1, dtype=dtype)
    values = torch.baddbmm(x, a, b, beta=-1, alpha=0).unique().tolist()
    wrong += values != [-1.0]
    print(dtype, "got", values, "expected [-1.0]")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
