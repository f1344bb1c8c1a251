"""torch.nextafter of bfloat16 under torch.compile on CPU."""

import sys

import torch

a, b = torch.ones(4, dtype=torch.bfloat16), torch.full((4,), 2.0, dtype=torch.bfloat16)
expected = 1.0 + 2.0**-7  # the next number that bfloat16 holds
eager = torch.nextafter(a, b).tolist()
got = torch.compile(torch.nextafter)(a, b).tolist()
wrong = got != [expected] * 4
print("eager", eager, "compiled", got, "expected", expected)
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
