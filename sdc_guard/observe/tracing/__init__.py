"""The trace of a program's operator calls: what was called, in which shapes, on which numbers.

Each distinct call is one JSON line, written when it is seen for the first time; how often it came
and the statistics of its operands are told again at every second, fourth, eighth ... time.  So
``kill -9`` loses at most the line being written, and counts by a factor of two.
"""
