"""The same call in inference mode, in deterministic mode, without oneDNN, under autocast."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.oracles._compare import against, comparable
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Modes, Trial


def _others(trial: Trial) -> list[tuple[str, str, Modes]]:
    modes = trial.modes
    replace = msgspec.structs.replace
    found = [
        ("without oneDNN" if modes.mkldnn else "with oneDNN", "",
         replace(modes, mkldnn=not modes.mkldnn)),
        ("not deterministic" if modes.deterministic else "deterministic algorithms", "",
         replace(modes, deterministic=not modes.deterministic)),
    ]
    if not trial.backward:
        found.append(("no inference mode" if modes.inference else "inference mode", "",
                      replace(modes, inference=not modes.inference)))
    if any(o.dtype in ("float32", "bfloat16", "float16") for o in trial.operands()):
        found.append(("no autocast" if modes.autocast else "autocast", "autocast",
                      replace(modes, autocast="" if modes.autocast else "bfloat16")))
    return found


@oracle("modes", share=0.15)
def modes(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """The call in one other mode.  Where the bits differ the operators of both sides are judged by
    their own bounds; another shape or dtype is a ``semantic difference``, except under autocast,
    whose operators are judged and no more."""
    if not comparable(session, "modes", base):
        return
    others = _others(trial)
    name, kind, changed = others[int(trial.digest, 16) % len(others)]
    other = msgspec.structs.replace(trial, modes=changed)
    yield from against(session, "modes", base, other, ("as made", name),
                       same_types=kind != "autocast")
