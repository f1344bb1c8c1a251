"""torch.gcd of the smallest integer comes out negative."""

import math
import sys

import torch

torch.set_num_threads(1)
wrong = 0
for dtype, smallest, other in ((torch.int32, -2**31, 5), (torch.int64, -2**63, 6)):
    a, b = torch.tensor([smallest], dtype=dtype), torch.tensor([other], dtype=dtype)
    got = torch.gcd(a, b).item()
    expected = math.gcd(smallest, other)
    wrong += got != expected
    print(f"gcd({smallest}, {other}) in {dtype}: got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
