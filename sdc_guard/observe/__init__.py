"""Operator call -> Observation: the dispatch mode, sampling, provenance, compiled regions."""
