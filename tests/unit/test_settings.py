"""Settings: named by variable, refused by name, secrets never shown."""

import traceback
from datetime import timedelta

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from milepost.cli.local.readiness import shown
from milepost.errors import ConfigurationError
from milepost.journal.connection import connect
from milepost.settings import JournalSettings, read_redis_url

PASSWORD = "hush-hush"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "DEDUP", "DEADLINE", "BACKLOG_LIMIT", "REPLICAS"):
        monkeypatch.delenv(name, raising=False)


def test_settings_have_their_defaults() -> None:
    read = JournalSettings.read()
    assert read.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert (read.dedup, read.deadline, read.backlog_limit) == (timedelta(hours=1), timedelta(hours=24), 1_000_000)
    assert read.replicas == 0


def test_each_field_is_a_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://user:pw@redis.example.org:6380/0")
    monkeypatch.setenv("DEADLINE", "PT1H30M")
    monkeypatch.setenv("BACKLOG_LIMIT", "5")
    read = JournalSettings.read(dedup="PT2H")
    assert read.redis_url.get_secret_value() == "rediss://user:pw@redis.example.org:6380/0"
    assert (read.dedup, read.deadline, read.backlog_limit) == (timedelta(hours=2), timedelta(minutes=90), 5)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379",
        "redis://localhost:6379/",
        "redis://localhost:6379/0",
        "rediss://user:p%40ss@localhost:6379/0",
        "redis://[::1]:6379/0",
        "redis://user:p%40%2F%23%3Fss@localhost",
        "redis://user:p@ss@localhost",
        "redis://localhost?db=0",
        "rediss://localhost?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required&ssl_check_hostname=false",
        "unix:///var/run/redis.sock",
        "unix://user:p%40ss@/var/run/redis.sock?db=0",
        "redis+sentinel://localhost/mymaster",
        "redis+sentinel://user:p%40ss@one:26379,two,[::1]:26380/mymaster/0?sentinel_password=other",
        "rediss+sentinel://one,two/mymaster?ssl_ca_certs=/etc/ca.pem&sentinel_username=u&sentinel_password=other",
        "redis+cluster://localhost",
        "redis+cluster://:p%40ss@[::1]:7000,two/0",
        "rediss+cluster://one?ssl_cert_reqs=none",
    ],
)
async def test_a_usable_url_makes_a_client_on_database_0(url: str) -> None:
    client = connect(JournalSettings.read(redis_url=url))
    assert client.connection_pool.connection_kwargs.get("db", 0) == 0
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost:6379",
        "unix://",
        "unix:///",
        "unix://var/run/redis.sock",
        f"unix://:{PASSWORD}/slash@/var/run/redis.sock",
        "redis://",
        "redis://one,two",
        "redis+other://one",
        "unix+cluster://one",
        "redis+cluster://",
        "redis+cluster://one,",
        f"redis+cluster://:{PASSWORD}/slash@one:1,two:2",
        "redis+sentinel://one,two",
        "redis+sentinel:///mymaster",
        f"redis+sentinel://:{PASSWORD}#@one:26379,two:26379/mymaster",
        f"redis+sentinel://:{PASSWORD}@one:port,two/mymaster",
        f"redis+sentinel://:pw@one,two:99999/mymaster?sentinel_password={PASSWORD}",
        f"redis+sentinel://one/mymaster?sentinel_password=p@{PASSWORD}",
        "redis:///0",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}@localhost:99999",
        f"redis://:{PASSWORD}@localhost:port",
        f"redis://:{PASSWORD}/slash@localhost:6379",
        f"redis://:{PASSWORD}@[::1:6379",
        "redis://localhost:0",
    ],
)
def test_a_wrong_url_is_refused_by_name_and_never_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: must .*look like redis://") as caught:
        JournalSettings.read(redis_url=url)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("user", ["", "user", "user@home", "7"])
@pytest.mark.parametrize("begin", ["", "6379", "p@ss", "p%40ss"])
@pytest.mark.parametrize("mark", ["/", "#", "?", "?db=1&", "/#", "@/", "@#", "@?", "[", "]", "@[", "℀", "\t"])
def test_password_with_an_unencoded_mark_is_refused_and_no_part_of_it_shown(user: str, begin: str, mark: str) -> None:
    password = f"{begin}{mark}{PASSWORD}"
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: must look like redis://.* %23") as caught:
        JournalSettings.read(redis_url=f"redis://{user}:{password}@localhost:6379")
    told = "".join(traceback.format_exception(caught.value)).replace("[user:password@]host:port", "")
    assert PASSWORD not in told
    assert not begin or begin not in str(caught.value).replace("@ as %40, / as %2F", "")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("decode_responses=true", "cannot have the option decode_responses"),
        ("protocol=3", "cannot have the option protocol"),
        ("socket_timeout=1", "cannot have the option socket_timeout"),
        ("max_connections=1", "cannot have the option max_connections"),
        ("sentinel_password=pw", "cannot have the option sentinel_password"),
        ("unheard_of=1", "cannot have the option unheard_of"),
        ("ssl_cert_reqs=perhaps", "option ssl_cert_reqs: must have one value of"),
        ("ssl_ca_certs=", "option ssl_ca_certs: must have one value"),
        ("ssl_ca_certs=a&ssl_ca_certs=b", "option ssl_ca_certs: must have one value"),
    ],
)
def test_options_of_a_url_that_milepost_cannot_use_are_refused(query: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^REDIS_URL: {told}"):
        JournalSettings.read(redis_url=f"rediss://localhost?{query}")
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: cannot have the option .*: redis:// takes no options"):
        JournalSettings.read(redis_url=f"redis://localhost?{query}")


@pytest.mark.parametrize(
    "end", ["/1", "/15", "/0/1", "/00", "/x", "?db=1", "/0?db=1", "/0?socket_timeout=1&db=2", "/0?%64b=3"]
)
@pytest.mark.parametrize(
    "begin", ["redis://:pw@one:6379", "redis+cluster://one,two", "redis+sentinel://one,two/mymaster"]
)
def test_another_database_than_0_is_refused(begin: str, end: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: must name database 0"):
        JournalSettings.read(redis_url=f"{begin}{end}")


def test_url_of_sentinels_or_a_cluster_is_read() -> None:
    sentinel = read_redis_url(
        "rediss+sentinel://u:p%40@one,[::1]:2/my%20master?sentinel_password=s%40&ssl_ca_certs=/ca"
    )
    assert (sentinel.kind, sentinel.service) == ("sentinel", "my master")
    assert sentinel.servers == [("one", 26379), ("::1", 2)]
    assert sentinel.sentinel == {"password": "s@"}
    assert sentinel.plain == "rediss://u:p%40@one:26379/0?ssl_ca_certs=%2Fca"
    cluster = read_redis_url("redis+cluster://[::1],two:7000")
    assert (cluster.kind, cluster.servers) == ("cluster", [("::1", 6379), ("two", 7000)])
    assert cluster.plain == "redis://[::1]:6379/0"
    assert "p%40" not in repr(sentinel)
    assert "s@" not in repr(sentinel)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dedup", "soon"),
        ("dedup", "PT0S"),
        ("deadline", "-PT1S"),
        ("backlog_limit", "0"),
        ("backlog_limit", "many"),
        ("replicas", "-1"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ConfigurationError, match=rf"^{name.upper()}: ") as caught:
        JournalSettings.read()
    assert "many" not in str(caught.value)
    assert "soon" not in str(caught.value)


def test_all_wrong_settings_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"REDIS_URL: .*; BACKLOG_LIMIT: "):
        JournalSettings.read(redis_url="http://x", backlog_limit=0)


def test_settings_do_not_show_the_password_and_cannot_be_changed() -> None:
    read = JournalSettings.read(redis_url=f"redis://:{PASSWORD}@localhost")
    assert PASSWORD not in f"{read!r} {read}"
    assert isinstance(client := connect(read), Redis)
    assert PASSWORD not in repr(client)
    with pytest.raises(ValidationError):
        read.backlog_limit = 1  # type: ignore[misc]


@pytest.mark.parametrize("behind", ["", f"?sentinel_password={PASSWORD}"])
def test_url_of_several_servers_is_shown_without_user_and_password(behind: str) -> None:
    url = f"redis+sentinel://user:{PASSWORD}@one:1,[::1]:2/mymaster{behind}"
    assert shown(url) == "redis+sentinel://one:1,[::1]:2/mymaster"
    assert shown(f"redis+cluster://user:/{PASSWORD}@one:1,two") == "redis+cluster://…"
