"""Training a process reward model: annotate steps from answers alone, encode them, train, measure."""
