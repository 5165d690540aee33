"""`python -m tests.documents`: docs/reference.md anew, or a list of the commands that no test runs."""

import argparse
import sys

from tests.documents.not_run import why_not_run
from tests.documents.reference import PATH, reference
from tests.documents.test_commands import STEPS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.documents", description=__doc__)
    parser.add_argument("--not-run", action="store_true", help="list the commands that no test runs, and why")
    if parser.parse_args().not_run:
        for step in STEPS:
            why = why_not_run(step.command)
            if why:
                sys.stdout.write(f"{step.title}\n    {why}\n")
    else:
        PATH.write_text(reference())


main()
