"""Records to text and pages.  Nothing here prints, computes a verdict or reads a file of a run."""
