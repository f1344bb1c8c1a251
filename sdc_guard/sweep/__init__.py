"""A test of the hardware without a model: which core or GPU computes wrong numbers.

``families/`` holds the tests, one file each; ``declared`` says what a test is.  A sweep pins one
worker process to each unit (``worker``, ``visit``), hands out tests (``schedule``, ``crew``), has
each wrong number looked at again on the same unit and on another (``confirming``), and gives every
test on every unit one word (``words``).
"""
