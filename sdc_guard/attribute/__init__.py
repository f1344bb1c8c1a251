"""Suspicion -> verdict and cause, while the inputs are still alive."""
