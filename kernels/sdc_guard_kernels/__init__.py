"""Triton kernels of sdc_guard: one kernel per file, importing only torch and triton.

Import a kernel's own module (``from sdc_guard_kernels.reductions import reduce_sums``); this
package imports none of them, so naming it costs nothing on a machine without triton.
"""
