"""torch.tril and torch.triu with two batch dimensions and an out= in the reverse order."""

import sys

import torch

shape, strides = (2, 2, 2, 2), (1, 2, 4, 8)
wrong = 0
for function, expected in ((torch.tril, [[1.0, 0.0], [1.0, 1.0]]),
                           (torch.triu, [[1.0, 1.0], [0.0, 1.0]])):
    memory = torch.full((100,), 77.0)
    out = memory.as_strided(shape, strides, 32)
    function(torch.ones(shape), out=out)
    lost = sum(part.tolist() != expected for part in out.reshape(4, 2, 2))
    beside = int((memory != 77.0).sum()) - int((out != 77.0).sum())
    wrong += bool(lost or beside)
    print(f"{function.__name__}: {lost} of 4 matrices wrong, {beside} elements beside overwritten")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
