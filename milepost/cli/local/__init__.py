"""The whole pipeline on one machine: its processes, the start of each, and the supervisor that keeps them running."""
