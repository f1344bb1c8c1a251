"""``sdc_guard.checked``: put a custom operator or a kernel launcher under the guard."""

from sdc_guard.public_ops.decorator import checked

__all__ = ["checked"]
