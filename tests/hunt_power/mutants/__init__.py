"""The mutants, in the order of the table.  Kinds and conditions are those of real bugs."""

from __future__ import annotations

from tests.hunt_power.mutant import Mutant
from tests.hunt_power.mutants import copies, indices, networks, pointwise, products, reductions

MUTANTS: dict[str, Mutant] = {
    m.name: m for part in (reductions, pointwise, copies, indices, products, networks)
    for m in part.MUTANTS
}
