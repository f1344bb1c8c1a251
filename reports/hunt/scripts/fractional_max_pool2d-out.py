"""fractional_max_pool2d with a strided out= writes it as if it were contiguous."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(16.0).reshape(1, 1, 4, 4)
samples = torch.zeros(1, 1, 2)  # the windows are the four quarters
indices = torch.empty(1, 1, 2, 2, dtype=torch.int64)
expected = [5.0, 7.0, 13.0, 15.0]  # the last of each quarter
memory = torch.full((85,), 77, dtype=torch.float32)
outside = torch.ones(85, dtype=torch.bool)
outside.as_strided((1, 1, 2, 2), (8, 8, 4, 2), 39).fill_(False)
out = memory.as_strided((1, 1, 2, 2), (8, 8, 4, 2), 39)  # every second element
torch.ops.aten.fractional_max_pool2d.output(
    x, [2, 2], [2, 2], samples, output=out, indices=indices)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
