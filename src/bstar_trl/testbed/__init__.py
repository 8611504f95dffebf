"""The testbed: sums modulo 10 with chains whose every step can be checked."""
