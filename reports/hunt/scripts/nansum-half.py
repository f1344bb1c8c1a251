"""torch.nansum adds up half formats in the format itself; torch.sum does not."""

import sys

import torch

torch.set_num_threads(1)
x = torch.full((7, 33, 65), 0.0999755859375, dtype=torch.float16)
x = x.as_strided((7, 33, 65), (33, 1, 231))  # 2145 equal terms for each of 7 results
exact = 2145 * 0.0999755859375  # 214.4476318359375: no rounding in float64
expected = 214.5  # the float16 next to it: they are 0.125 apart there
got = {"nansum": torch.nansum(x, (-1, -2))[0].item(), "sum": x.sum((-1, -2))[0].item()}
wrong = abs(got["nansum"] - exact) > 0.125
print(f"got {got}, expected {expected} (exactly {exact})")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
