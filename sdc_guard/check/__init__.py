"""Observation -> Suspicion: replay, reference, sample, checksum, invariant."""
