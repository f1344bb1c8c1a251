"""The sweep and its rivals against injected faults: what each finds, and whom it blames."""
