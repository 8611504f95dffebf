"""From requests to scored rollouts: the stream of queries, scoring, and the store of responses."""
