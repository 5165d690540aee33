"""The whole pipeline on a Redis that speaks TLS and lets its user do no more than it must, and a MongoDB with auth."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from uuid import uuid4

import pymongo
import pytest
import redis

from milepost import stage_values
from milepost.errors import JournalUnavailable
from milepost.journal import Journal
from tests.failover.following import following
from tests.pipeline.conftest import Pipeline
from tests.replicated import sentinel
from tests.servers import HOST, REDIS_SERVER, ROOT, Mongo, Redis, eventually, free_port, wait_for

PASSWORD = f"hush{uuid4().hex}"
ACL = next(
    line.split() for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("    ACL SETUSER")
)
"""The very line that SECURITY.md shows."""

MAY = {word.removeprefix("+") for word in ACL if word.startswith("+")}
"""The commands that it allows."""

STAGES = stage_values.read(ROOT)

pytestmark = pytest.mark.skipif(
    not (REDIS_SERVER and which("openssl")), reason="needs redis-server (with TLS) and openssl on the PATH"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName=IP:{HOST}", "-days", "1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject], check=True)
    return folder


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


def speaks_tls(certificate: Path, port: int) -> dict[str, str]:
    """Options of a server that speaks TLS at this port, and to others."""
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    files = {"tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}
    return {"tls-port": str(port), **files, "tls-auth-clients": "no", "tls-replication": "yes"}


@pytest.fixture(scope="module")
def redis_server(certificate: Path, tls_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    options = {**speaks_tls(certificate, tls_port), "maxmemory-policy": "noeviction"}
    folder = tmp_path_factory.mktemp("redis")
    with Redis(folder, options=options) as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command(*(word.replace("PASSWORD", PASSWORD) for word in ACL))
        of_stages = [f"&{channel}" for stage in STAGES for channel in (stage.consumes, *stage.emits)]
        admin.execute_command("ACL", "SETUSER", "milepost", *of_stages)  # those that someone has added since
        yield server
        assert not admin.acl_log(), "the user needs more than SECURITY.md says"


@pytest.fixture(scope="module")
def redis_url(certificate: Path, tls_port: int, redis_server: Redis) -> str:
    return f"rediss://milepost:{PASSWORD}@{HOST}:{tls_port}/0?ssl_ca_certs={certificate / 'cert.pem'}"


@pytest.fixture(scope="module")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    class Guarded(Mongo):
        guarded = False

        def argv(self) -> list[str]:
            return [*super().argv(), *(["--auth"] if self.guarded else [])]

    with Guarded(tmp_path_factory.mktemp("mongo")) as server:
        with pymongo.MongoClient[dict[str, object]](server.url) as admin:
            admin.admin.command("createUser", "milepost", pwd=PASSWORD, roles=["readWriteAnyDatabase"])
        server.close()
        server.guarded = True
        server.start()
        yield f"mongodb://milepost:{PASSWORD}@{HOST}:{server.port}/secured?authSource=admin"


@pytest.fixture(scope="module")
def pipeline(redis_url: str, mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    servers = {"REDIS_URL": redis_url, "MONGO_URL": mongo_url, "LOG_LEVEL": "DEBUG", "RATE_LIMIT": "1000/minute"}
    with Pipeline(tmp_path_factory.mktemp("secured") / "data", env=servers) as running:
        yield running.ready()


def test_a_submission_goes_all_the_way(pipeline: Pipeline) -> None:
    address = f"u{uuid4().hex}@example.org"
    assert pipeline.run("send", address, "40.7", "-74")[-1] == "You are 5680.2004177676945 miles from Velocity."
    assert len(pipeline.emails(address)) == 1


def test_operators_can_do_their_work(pipeline: Pipeline) -> None:
    pipeline.run("publish", "user:email", "nobody@example.org")
    wait_for(lambda: any("nobody" in line or "n***" in line for line in pipeline.run("dead", "list")))
    pipeline.run("dead", "drop", "email", "--all", "--yes")
    assert len(pipeline.run("stages")) == 1 + len(STAGES)


def test_no_password_is_in_anything_that_redis_was_given(pipeline: Pipeline, redis_server: Redis) -> None:
    address = f"u{uuid4().hex}@example.org"
    pipeline.run("send", address, "40.7", "-74")
    written = b"".join(path.read_bytes() for path in redis_server.folder.rglob("*.aof"))
    assert address.encode() in written
    assert PASSWORD.encode() not in written


def used() -> set[str]:
    """Return the commands that the scripts and the Python code name, as an ACL names them."""
    scripts = "".join(path.read_text() for path in ROOT.glob("milepost/journal/lua/*.lua"))
    found = re.findall(r"(?:call|unless_gone|count)\('([A-Z]+)'(?:, '([A-Z]+)')?", scripts)
    commands = {f"{name}|{sub}" if name in {"XGROUP", "XINFO", "MEMORY"} else name for name, sub in found}
    code = "".join(path.read_text() for part in ("milepost", "gateway") for path in (ROOT / part).rglob("*.py"))
    methods = set(re.findall(r"(?:redis|look)\.([a-z]+(?:_[a-z]+)?)\(", code)) & {*dir(redis.Redis)} - NO_COMMANDS
    return {command.lower() for command in commands} | {COMMANDS.get(name, name) for name in methods}


NO_COMMANDS = {"from_url", "pipeline", "pubsub", "execute", "aclose", "close"}
COMMANDS = {"delete": "del", "xinfo_groups": "xinfo|groups", "xpending_range": "xpending"}
"""Methods of redis-py that are called otherwise than their commands."""


def test_the_user_may_run_every_command_that_the_code_names() -> None:
    commands = used()
    assert {"hsetnx", "hkeys", "zscan", "xgroup|create", "xinfo|consumers"} <= commands
    assert commands <= MAY


def test_the_user_can_do_nothing_else(redis_server: Redis, redis_url: str) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        assert not admin.acl_log(), "the user needs more than SECURITY.md says"
    with redis.Redis.from_url(redis_url) as user:
        for command in ("FLUSHALL", "CONFIG GET *", "KEYS *", "ACL LIST", "SHUTDOWN NOSAVE", "MONITOR", "GET other"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command.split())
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.publish("other", "x")
        assert user.ping()
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "LOG", "RESET")


def test_no_component_prints_a_password(pipeline: Pipeline) -> None:
    assert pipeline.end() == 0
    assert PASSWORD not in pipeline.output


async def test_sentinels_are_asked_by_tls_too(
    certificate: Path, redis_server: Redis, tls_port: int, tmp_path: Path
) -> None:
    port = free_port()
    lines = [f"{name} {value}" for name, value in speaks_tls(certificate, port).items()]
    with sentinel(Redis, tmp_path, redis_server, f"sentinel monitor secured {HOST} {tls_port} 1", *lines):
        at = f"rediss+sentinel://milepost:{PASSWORD}@{HOST}:{port}/secured?ssl_ca_certs={certificate / 'cert.pem'}"
        async with following(at) as journal:
            await eventually(lambda: answers(journal))


async def answers(journal: Journal) -> bool:
    try:
        await journal.ping()
    except JournalUnavailable:
        return False
    return True
