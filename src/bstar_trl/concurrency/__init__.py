"""A pool of killable processes, and work on background threads."""
