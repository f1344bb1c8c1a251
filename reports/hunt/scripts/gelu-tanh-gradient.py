"""The gradient of gelu with approximate="tanh" far from 0: 0 on the left, 1 on the right."""

import sys

import torch

x = torch.tensor([-1e20, 1e20], requires_grad=True)
y = torch.nn.functional.gelu(x, approximate="tanh")
(got,) = torch.autograd.grad(y, x, torch.ones(2))
wrong = got.tolist() != [0.0, 1.0]
print("gelu", y.tolist(), "its gradient", got.tolist(), "expected [0.0, 1.0]")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
