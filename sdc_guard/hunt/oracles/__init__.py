"""What decides whether a call is right, one file for each way."""
