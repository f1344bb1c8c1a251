"""torch.nn.functional.avg_pool2d of integers, with its own input as out=."""

import sys

import torch

x = torch.tensor([[[[3], [3], [3]]]])
torch.ops.aten.avg_pool2d.out(x, [3, 1], [1, 1], [1, 0], False, False, None, out=x)
expected = [3, 3, 3]  # means of two, three and two threes: padding does not count
got = x.flatten().tolist()
wrong = got != expected
print("got", got, "expected", expected)
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
