"""torch.mm, addmm, baddbmm, mv and matmul with a factor as out= give zeros, or lose a term."""

import sys

import torch

torch.set_num_threads(1)
eye = torch.eye(2)
calls = {  # the product with the unit matrix is the other factor
    "mm": lambda a: torch.mm(a, eye, out=a),
    "mm, second factor": lambda a: torch.mm(eye, a, out=a),
    "matmul": lambda a: torch.matmul(a, eye, out=a),
    "addmm": lambda a: torch.addmm(torch.zeros(2, 2), a, eye, out=a),
    "baddbmm": lambda a: torch.baddbmm(torch.zeros(1, 2, 2), a[None], eye[None], out=a[None])[0],
    "mv": lambda a: torch.mv(eye, a[0], out=a[0]),
}
wrong = 0
for name, call in calls.items():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [1.0, 2.0] if name == "mv" else [[1.0, 2.0], [3.0, 4.0]]
    got = call(a).tolist()
    wrong += got != expected
    print(f"{name}: got {got}, expected {expected}")
print(f"torch {torch.__version__}:", "WRONG" if wrong else "RIGHT")
sys.exit(1 if wrong else 0)
