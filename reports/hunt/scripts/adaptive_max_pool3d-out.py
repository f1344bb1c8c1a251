"""adaptive_max_pool3d with a strided out= writes it as if it were contiguous."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(16.0).reshape(1, 1, 4, 2, 2)
indices = torch.empty(1, 1, 2, 2, 2, dtype=torch.int64)
expected = [float(8 * i + 4 + j) for i in range(2) for j in range(4)]  # the later of two planes
memory = torch.full((109,), 77, dtype=torch.float32)
outside = torch.ones(109, dtype=torch.bool)
outside.as_strided((1, 1, 2, 2, 2), (16, 16, 8, 4, 2), 47).fill_(False)
out = memory.as_strided((1, 1, 2, 2, 2), (16, 16, 8, 4, 2), 47)  # every second element
torch.ops.aten.adaptive_max_pool3d.out(x, [2, 2, 2], out=out, indices=indices)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
