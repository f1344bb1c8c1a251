"""Whether checking works on this machine, line by line, each with what to do about it."""
