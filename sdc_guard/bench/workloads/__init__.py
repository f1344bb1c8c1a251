"""Models in training that benchmarks run; one file each."""
