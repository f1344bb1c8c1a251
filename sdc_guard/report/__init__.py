"""Reports from evidence: gather, compare with a baseline, judge, compare two runs."""
