"""B-STaR for TRL."""
