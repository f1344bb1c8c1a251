"""fractional_max_pool3d with a strided out= writes it as if it were contiguous."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
samples = torch.zeros(1, 1, 3)  # the windows are the eight octants
indices = torch.empty(1, 1, 2, 2, 2, dtype=torch.int64)
expected = [float(21 + 32 * i + 8 * j + 2 * k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
memory = torch.full((109,), 77, dtype=torch.float32)
outside = torch.ones(109, dtype=torch.bool)
outside.as_strided((1, 1, 2, 2, 2), (16, 16, 8, 4, 2), 47).fill_(False)
out = memory.as_strided((1, 1, 2, 2, 2), (16, 16, 8, 4, 2), 47)  # every second element
torch.ops.aten.fractional_max_pool3d.output(
    x, [2, 2, 2], [2, 2, 2], samples, output=out, indices=indices)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
