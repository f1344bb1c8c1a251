"""torch.native_batch_norm with out=, in training, on an input that is not contiguous."""

import sys

import torch

x = torch.tensor([[[0.0], [2.0]], [[4.0], [6.0]]]).permute(2, 1, 0)  # channels 0, 4 and 2, 6
mean, variance = torch.zeros(2), torch.ones(2)
out = tuple(torch.full(shape, 9.0) for shape in ((1, 2, 2), (2,), (2,)))
torch.native_batch_norm(x, None, None, mean, variance, True, 1.0, 1e-5, out=out)
expected = [2.0, 4.0]  # the means of 0 and 4, and of 2 and 6; with momentum 1 the running ones too
got, running = out[1].tolist(), mean.tolist()
wrong = got != expected or running != expected
print("saved mean", got, "running mean", running, "expected", expected)
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
