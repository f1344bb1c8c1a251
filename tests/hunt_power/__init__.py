"""How much of what is planted the hunt finds: ``python -m tests.hunt_power.run``.

``mutants/`` are kernels that are wrong for some calls, ``rivals/`` what others would do to find
them; ``child`` tries one way on one mutant, ``run`` makes all trials and the table.
"""
