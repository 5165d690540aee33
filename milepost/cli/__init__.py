"""The command line: run the whole pipeline on one machine, and look into one that runs."""

from milepost.cli.app import main

__all__ = ["main"]
