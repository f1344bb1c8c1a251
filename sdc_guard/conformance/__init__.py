"""The hunt's properties as a pytest suite, for whoever writes a backend or a library of kernels.

``pytest --pyargs sdc_guard.conformance --sdc-device mydevice --sdc-ops "sum,mm"``: one test for
each operator and dtype, the same calls every time.  A ``conftest.py`` in the current folder may
load the backend.  See docs/conformance.md.
"""
