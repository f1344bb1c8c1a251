"""torch.poisson draws a negative count where the rate is above 2**63."""

import sys

import torch

torch.set_num_threads(1)
got = torch.poisson(torch.tensor([1e19])).item()
expected = "0 or more: a count"
wrong = not got >= 0
print(f"got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
