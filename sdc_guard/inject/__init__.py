"""Faults on purpose: to see what a detector finds.

Never imported by a production stage: tests, benchmarks, the hunt's self-tests and the demo use it.

A model of your own, one training step, twenty faults of the mix that NVIDIA published, and what a
guard says of them:

>>> import copy
>>> from types import SimpleNamespace
>>> import torch
>>> import sdc_guard
>>> from sdc_guard import inject
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Sequential(
...     torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
>>> data = torch.randn(64, 32, 8)
>>> source = SimpleNamespace(batch=lambda number: data[number % 64], step_number=0)
>>> def step():
...     batch = source.batch(source.step_number)
...     source.step_number += 1
...     (model(batch) - batch.mean(1, keepdim=True)).square().mean().backward()
...     optimizer.step()
...     optimizer.zero_grad()
>>> target = inject.Target(inject.record_calls(step), model, optimizer, source)
>>> findings = []
>>> guard = sdc_guard.Guard(budget="all", on_finding=findings.append, evidence="none")
>>> with guard:  # what it has to learn, without faults
...     for _ in range(5):
...         step()
>>> start = copy.deepcopy(model.state_dict())
>>> num_injected = num_found = 0
>>> for index in range(20):
...     fault = inject.draw("published mix", target, index, seed=0)
...     findings.clear()
...     with guard, fault:  # the fault inside the detector
...         step()
...     if fault.injected:  # it changed a bit: zeroing what is zero changes none
...         num_injected += 1
...         num_found += any(f.op == str(fault.op) for f in findings)
...     _ = model.load_state_dict(start)
>>> num_injected >= 15, num_found == num_injected
(True, True)

``fault.injected`` is the ground truth: operator, elements, numbers before and after, size in ulps
and in units of the operator's rounding bound (:class:`InjectedFault`).  A fault may leave the model
wrong or end the step with an exception, as a real one does: put back what the next one starts from.
``list(inject.MODELS)`` names all models; :data:`MODELS` describes them.
"""

from sdc_guard.inject.campaign import CallShape, record_calls
from sdc_guard.inject.classes import CLASSES, op_class
from sdc_guard.inject.composed import OperandFault, ResultFault, StaleResult
from sdc_guard.inject.faults import Fault, RepeatedFlip, Stuck, TransientFlip
from sdc_guard.inject.kernel_bugs import WrongAtOffset, WrongLayout, WrongOffset
from sdc_guard.inject.misread import MisreadElement
from sdc_guard.inject.models import MODELS, AnyFault, BatchSource, FaultModel, Target, draw
from sdc_guard.inject.override import KernelOverride
from sdc_guard.inject.truth import SIZES, InjectedFault, size_class

__all__ = [
    "CLASSES",
    "MODELS",
    "SIZES",
    "AnyFault",
    "BatchSource",
    "CallShape",
    "Fault",
    "FaultModel",
    "InjectedFault",
    "KernelOverride",
    "MisreadElement",
    "OperandFault",
    "RepeatedFlip",
    "ResultFault",
    "StaleResult",
    "Stuck",
    "Target",
    "TransientFlip",
    "WrongAtOffset",
    "WrongLayout",
    "WrongOffset",
    "draw",
    "op_class",
    "record_calls",
    "size_class",
]
