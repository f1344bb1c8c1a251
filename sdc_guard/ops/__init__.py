"""One file per checked op or tight family; the decorators in them are the table."""

from sdc_guard.ops._registry import (
    HostCall,
    OpSpec,
    Reference,
    all_specs,
    checked,
    lookup,
    packet_name,
)

__all__ = ["HostCall", "OpSpec", "Reference", "all_specs", "checked", "lookup", "packet_name"]
