"""binary_cross_entropy.out with a mean gives the loss of the first element."""

import sys
from math import log

import torch

torch.set_num_threads(1)
p, t = torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0])
out = torch.empty(())
got = torch.ops.aten.binary_cross_entropy.out(p, t, out=out).item()
expected = (log(2) + log(4 / 3)) / 2  # 0.4904146265058631; of the first element alone: 0.6931
wrong = not abs(got - expected) < 1e-5
print(f"got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
