"""torch.narrow_copy with a strided out= writes it as if it were contiguous."""

import sys

import torch

torch.set_num_threads(1)
x = torch.arange(8.0).reshape(2, 2, 2)
expected = [2.0, 3.0, 6.0, 7.0]  # the second row of each block
memory = torch.full((16,), 77.0)
outside = torch.ones(16, dtype=torch.bool)
outside.as_strided((2, 1, 2), (8, 4, 2), 0).fill_(False)
out = memory.as_strided((2, 1, 2), (8, 4, 2), 0)  # every second element
torch.narrow_copy(x, 1, 1, 1, out=out)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got}, expected {expected}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
