"""The whole pipeline, as `milepost up` runs it, and the e-mails it sent."""

from collections.abc import Iterator

import pytest

from tests.cli.running import WITHIN, Milepost, Up
from tests.servers import wait_for


class Pipeline(Up):
    """`milepost up`, with the files and pages that a user would look at."""

    @property
    def gateway(self) -> str:
        return str(self.stack["gateway"])

    def run(self, *arguments: str) -> list[str]:
        """The lines that a command on this pipeline prints; it must end well."""
        with Milepost(*arguments, "--data", str(self.data)) as command:
            assert command.process.wait(WITHIN) == 0, command.output
            command.end()
        return command.lines

    def emails(self, address: str) -> list[str]:
        """The lines of e-mails to this address."""
        lines = (self.data / "sent_emails").read_text().splitlines()
        return [line for line in lines if line.startswith(f"Email sent to: {address};")]

    def wait_for_email(self, address: str, count: int = 1, within: float = WITHIN) -> list[str]:
        wait_for(lambda: len(self.emails(address)) >= count, within, f"{count} e-mails to {address}")
        return self.emails(address)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with Pipeline(tmp_path_factory.mktemp("pipeline") / "data") as running:
        running.ready()
        yield running
        assert running.end() == 0
