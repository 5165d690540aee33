"""The whole pipeline on one machine: which processes it has, how each is started, and what keeps them running."""
