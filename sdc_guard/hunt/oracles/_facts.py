"""What oracles know of operators: which results are exact, drawn, undefined or not unique."""

from __future__ import annotations

from fnmatch import fnmatchcase

from sdc_guard.formats import is_covered_complex, is_covered_float
from sdc_guard.hunt.execution import Execution
from sdc_guard.ops import GENERATOR
from sdc_guard.records import Observation

READS_MEMORY = (
    "*.as_strided*", "*.set_*", "*.resize*", "*_reshape_alias*", "*.view.dtype", "*.unsafe_chunk*",
    "*.storage_offset*", "*.stride*", "*.is_contiguous*", "*.data_ptr*", "*.is_set_to*",
    "*.untyped_storage*", "*.sym_stride*",
)
"""Calls whose result is defined by how an operand lies in memory."""

UNINITIALISED = ("*.empty*", "*.new_empty*", "*.resize*", "*_empty_affine_quantized*",
                 "*._efficientzerotensor*", "*_grouped_mm*")
"""Calls whose result holds no numbers yet, or not in all places (rows of no group)."""

NOT_UNIQUE = (
    "*linalg_eig*", "*linalg_svd*", "*.svd*", "*.linalg.svd", "*.linalg.eig*", "*_linalg_eigh*",
    "*.geqrf*", "*pca_lowrank*", "*svd_lowrank*", "*lobpcg*", "*linalg_ldl*", "*lstsq*",
)
"""Results of which more than one is right (signs of vectors, order of equal values)."""


def _is_float(observation: Observation) -> bool:
    return any(t is not None and (is_covered_float(t.dtype) or is_covered_complex(t.dtype)
                                  or t.dtype.is_floating_point or t.dtype.is_complex)
               for t in observation.held)


def is_exact(observation: Observation) -> bool:
    """True if no result of the operator is rounded: integers and booleans alone."""
    return not _is_float(observation)


def draws(execution: Execution) -> bool:
    """True if an operator that ran drew random numbers."""
    return any(o.call.form.seeded or (e.spec is not None and (
        e.spec.family in (GENERATOR, "random") or not e.spec.replayable))
        for o, e in zip(execution.observations, execution.entries, strict=True))


def matches(target: str, names: tuple[str, ...]) -> bool:
    """True if a target is one of those globs."""
    return any(fnmatchcase(target, name) for name in names)
