"""torch.amin over no dimension, which is all of them, and amax, with the input as out=."""

import sys

import torch

wrong = 0
for function in (torch.amin, torch.amax, torch.sum):
    x = torch.ones(1, 1)
    function(x, [], True, out=x)
    wrong += x.item() != 1.0
    print(function.__name__, "got", x.item(), "expected 1.0")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
