"""From a configuration to a run: what `bstar-trl train` does."""
