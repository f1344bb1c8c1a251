"""im2col (unfold) with a strided out= writes it as if it were contiguous."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(8.0).reshape(1, 2, 2, 2)
expected = [float(i) for i in range(8)]  # windows of one element: the input itself
memory = torch.full((109,), 77, dtype=torch.float32)
outside = torch.ones(109, dtype=torch.bool)
outside.as_strided((1, 2, 4), (16, 8, 2), 47).fill_(False)
out = memory.as_strided((1, 2, 4), (16, 8, 2), 47)  # every second element
torch.ops.aten.im2col.out(x, [1, 1], [1, 1], [0, 0], [1, 1], out=out)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
