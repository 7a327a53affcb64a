"""Around a script's work: flags, errors, progress, signals, processes."""
