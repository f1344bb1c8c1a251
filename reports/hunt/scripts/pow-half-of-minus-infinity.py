"""torch.pow(-inf, 0.5) is NaN; C99 (F.9.4.4) says inf, as an exponent in a tensor gives it."""

import math
import sys

import torch

torch.set_num_threads(1)
wrong = 0
x = torch.tensor([-math.inf])
for exponent in (0.5, -0.5):
    got, in_a_tensor = torch.pow(x, exponent).item(), torch.pow(x, torch.tensor([exponent])).item()
    expected = math.pow(-math.inf, exponent)
    wrong += got != expected
    print(f"pow(-inf, {exponent}): got {got}, by a tensor {in_a_tensor}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
