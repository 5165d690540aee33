"""`python -m milepost.cli`, for where the `milepost` command is not installed."""

from milepost.cli.app import main

main()
