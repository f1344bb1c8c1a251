"""One file per checked op or tight family; the decorators in them are the table."""

from sdc_guard.ops._determinism import is_deterministic
from sdc_guard.ops._generic import FAMILY as GENERIC
from sdc_guard.ops._generic import copied, generic_spec, repeated
from sdc_guard.ops._registry import (
    GENERATOR,
    HostCall,
    OpSpec,
    Reference,
    all_specs,
    checked,
    complex_specs,
    lookup,
    lookup_complex,
    packet_name,
)

__all__ = [
    "GENERATOR",
    "GENERIC",
    "HostCall",
    "OpSpec",
    "Reference",
    "all_specs",
    "checked",
    "complex_specs",
    "copied",
    "generic_spec",
    "is_deterministic",
    "lookup",
    "lookup_complex",
    "packet_name",
    "repeated",
]
