"""Rounding-error arithmetic.  Higham, *Accuracy and Stability of Numerical Algorithms* (2002)."""
