"""torch.nn.functional.gelu with a strided out= does not write it at all."""

import sys

import torch

torch.set_num_threads(1)
x = torch.zeros(2, 4)
expected = [0.0] * 8  # gelu(0) is exactly 0
memory = torch.full((109,), 77, dtype=torch.float32)
outside = torch.ones(109, dtype=torch.bool)
outside.as_strided((2, 4), (8, 2), 47).fill_(False)
out = memory.as_strided((2, 4), (8, 2), 47)  # every second element
torch.nn.functional.gelu(x, out=out)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
