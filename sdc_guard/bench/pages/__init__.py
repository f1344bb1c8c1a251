"""The results page of the benchmark and the README's table of claims, made from JSON alone."""
