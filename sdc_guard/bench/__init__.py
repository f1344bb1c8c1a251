"""Measurements of the guard: what it costs and what it finds."""
