"""upsample_bilinear2d in uint8 with a strided out= writes beside it."""

import sys

import torch

torch.set_num_threads(1)
x = torch.tensor([5, 9], dtype=torch.uint8).reshape(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()
expected = [5] * 16 + [9] * 16  # each channel is constant
memory = torch.full((253,), 77, dtype=torch.uint8)
outside = torch.ones(253, dtype=torch.bool)
outside.as_strided((1, 2, 4, 4), (1, 1, 2, 8), 95).fill_(False)
out = memory.as_strided((1, 2, 4, 4), (1, 1, 2, 8), 95)  # channels, then rows, innermost
torch.ops.aten.upsample_bilinear2d.out(x, [4, 4], True, out=out)
got = out.flatten().tolist()
wrong = sum(g != e for g, e in zip(got, expected, strict=True))
beside = int((memory[outside] != 77).sum())
print(f"got {got[:8]}, expected {expected[:8]}: {wrong} of {len(got)} elements wrong, "
      f"{beside} beside out= overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong or beside else "RIGHT")
sys.exit(1 if wrong or beside else 0)
