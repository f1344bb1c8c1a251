"""A real training run, on real text, with a ``torch.sum`` that goes wrong now and then."""
