"""Faults outside the production path, installed by overriding aten kernels.

Never imported by a production stage: tests, benchmarks, the hunt's self-tests and the demo use it.
"""
