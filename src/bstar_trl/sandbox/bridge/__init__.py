"""What passes between a program and its tests: values and requests over one pipe, nothing else."""
