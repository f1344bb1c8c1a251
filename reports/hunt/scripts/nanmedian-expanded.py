"""torch.nanmedian along an expanded dimension reads the memory behind the element."""

import sys

import torch

torch.set_num_threads(1)
memory = torch.tensor([1.0, 9.0, 9.0])
x = memory[:1].expand(3)  # 1, 1, 1
got, expected = torch.nanmedian(x, 0).values.item(), sorted([1.0, 1.0, 1.0])[1]
wrong = got != expected
print(f"got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
