"""torch.linalg.lu with out= in reversed strides and two batch dimensions writes beside L."""

import sys

import torch

torch.set_num_threads(1)
A = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).expand(2, 2, 2, 2).contiguous()
expected = [1.0, 0.0, 0.0, 1.0] * 4  # A = 2 I is I (I) (2 I), exactly: L is I
memory = torch.full((3, 112), 77.0)
P, L, U = memory.as_strided((3, 2, 2, 2, 2), (112, 1, 2, 4, 8), 48)
outside = torch.ones(3, 112, dtype=torch.bool)
outside[:, 48:64] = False
torch.linalg.lu(A, out=(P, L, U))
got = L.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
