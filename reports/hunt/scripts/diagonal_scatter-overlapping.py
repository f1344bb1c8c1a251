"""torch.diagonal_scatter of windows that share memory returns a tensor whose rows share memory."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(4).unfold(0, 3, 1)  # [[0, 1, 2], [1, 2, 3]]
got = torch.diagonal_scatter(x, torch.tensor([7, 8])).tolist()
expected = [[7, 1, 2], [1, 8, 3]]
wrong = got != expected
print(f"got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
