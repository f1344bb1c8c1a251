"""A scalar is wrapped to the tensor's dtype before it is compared: uint8 255 equals -1."""

import sys

import torch

torch.set_num_threads(1)
got, expected = torch.eq(torch.tensor([255], dtype=torch.uint8), -1).item(), 255 == -1
wrong = got != expected
print(f"got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
