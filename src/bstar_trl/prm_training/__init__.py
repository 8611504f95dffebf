"""Training a process reward model: annotate steps with the help of answers, encode them, train, measure."""
