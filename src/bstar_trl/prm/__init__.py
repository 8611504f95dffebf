"""Process reward models: where public ones read their step scores, loading them, and scoring responses."""
