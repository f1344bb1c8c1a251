"""Gradients of batch_norm in evaluation, on CPU, with a weight or a mean that is a strided view.

With mean 0, variance 1 and eps 0 the gradient of x is the weight times the incoming gradient, and
that of the weight is the sum of x times the incoming gradient.
"""

import sys

import torch

wrong = 0
weight = torch.tensor([1.0, 100.0, 2.0, 100.0])[::2]  # 1, 2
x = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], requires_grad=True)
y = torch.nn.functional.batch_norm(x, torch.zeros(2), torch.ones(2), weight, eps=0.0)
(got,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
expected = [[1.0, 2.0], [-1.0, -2.0]]
wrong += got.tolist() != expected
print("gradient of x, strided weight: got", got.tolist(), "expected", expected)
mean = torch.tensor([0.0, 100.0, 0.0, 100.0])[::2]
weight = torch.ones(2, requires_grad=True)
y = torch.nn.functional.batch_norm(torch.ones(1, 2), mean, torch.ones(2), weight, eps=0.0)
(got,) = torch.autograd.grad(y, weight, torch.ones(1, 2))
wrong += got.tolist() != [1.0, 1.0]
print("gradient of the weight, strided running_mean: got", got.tolist(), "expected [1.0, 1.0]")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
