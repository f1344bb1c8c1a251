"""What others do to find wrong kernels.

Each gets the best oracle there can be: the right kernel, on the same call.  What it misses, it
misses because of the calls that it makes or of the tolerance with which it compares.
"""
