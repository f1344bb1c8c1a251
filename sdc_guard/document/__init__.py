"""The divergence report as a document: its records, its words, and reading and writing it.

One JSON document for guard runs, hunts, sweeps and benches; everything that is shown to a person
or a machine is rendered from it.  Nothing here imports torch.
"""
