"""Commands of the documents that no test runs, and why. `python -m tests.documents --not-run` lists them."""

import re
import shutil

NOT_RUN = (
    (r"\b(kubectl|helm|skaffold|minikube)\b|^knative/|^make (cluster|dev)\b", "needs a cluster"),
    (r"# on the cluster$|Host: milepost-|://milepost-[a-z]+\.milepost", "needs a cluster"),
    (r"-h (PRIMARY|SENTINEL) ", "a row of make faults does it"),
    (r"^make (test|check)$", "runs these tests"),
    (r"^git clone|^cd milepost$", "the tests run on a copy of this checkout"),
    (r"^REDIS_URL=redis://127\.0\.0\.1:6379 ", "tests/cli/test_up.py runs it, with servers of its own"),
)
"""Pattern of a command, reason."""


def why_not_run(command: str) -> str | None:
    """Why no test runs this command; None: one does."""
    if command.startswith("redis-cli") and shutil.which("redis-cli") is None:
        return "redis-cli is not installed"
    return next((why for pattern, why in NOT_RUN if re.search(pattern, command, re.MULTILINE)), None)
