"""The ports at which ranks of SLURM jobs meet."""

FIRST_PORT, PORTS = 20_000, 10_000
"""Below Linux's ephemeral ones, by job, so that jobs on one node don't meet."""
