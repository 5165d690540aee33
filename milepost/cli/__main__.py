"""`python -m milepost.cli`, for where the `milepost` command is not installed."""

from milepost.cli import main

main()
