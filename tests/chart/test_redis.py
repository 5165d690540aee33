"""The Redis of the chart: the embedded Valkey runs with its rendered arguments."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from redis.exceptions import AuthenticationError

from milepost.settings import JournalSettings
from tests.chart.rendering import SECRET, Object, container, environment, merged, only, render
from tests.servers import HOST, ROOT, Valkey

PASSWORD = "hush"


class Rendered(Valkey):
    """A server with the container's arguments, a password, and a folder of the test as its volume."""

    def argv(self) -> list[str]:
        found = redis_container({"redis": {"port": self.port}})
        env = environment(found, {"redis-password": PASSWORD})
        places = {"$(REDISCLI_AUTH)": env["REDISCLI_AUTH"], "/data": str(self.folder)}
        return [self.binary(), *(places.get(word, word) for word in found["args"]), "--bind", HOST]

    def is_ready(self) -> bool:
        with redis.Redis(port=self.port, password=PASSWORD, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def redis_container(layer: Object) -> Object:
    return container(only(render(merged(SECRET, layer)), "StatefulSet", "milepost-redis"))


def test_redis_keeps_acknowledged_writes_and_asks_for_the_password(tmp_path: Path) -> None:
    with Rendered(tmp_path) as server:
        with redis.Redis(port=server.port, password=PASSWORD) as client:
            expected = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always", "save": ""}
            assert {name: client.config_get(name)[name] for name in expected} == expected
            assert client.config_get("maxmemory")["maxmemory"] == str(256 * 1024 * 1024)
            client.set("a", "1")
            server.kill()
            server.start()
            assert client.get("a") == b"1"
        with redis.Redis(port=server.port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()


@pytest.mark.parametrize(
    "url",
    [
        "rediss+sentinel://default:pw@one.example.org:26379,two.example.org:26379/mymaster",
        "redis+cluster://one.example.org:6379,two.example.org:6379",
    ],
)
def test_outside_redis_that_fails_over_is_reached_and_its_replicas_are_waited_for(url: str) -> None:
    layer = {"redis": {"enabled": False, "url": url, "morePorts": [26379]}, "journal": {"replicas": 1}}
    objects = render(merged(SECRET, layer))
    for name in ("bridge", "gateway"):
        env = environment(container(only(objects, "Deployment", f"milepost-{name}")), {"redis-url": url})
        assert JournalSettings.read(redis_url=env["REDIS_URL"], replicas=env["REPLICAS"]).replicas == 1
        open_to = str(only(objects, "NetworkPolicy", f"milepost-{name}")["spec"]["egress"])
        assert "'port': 6379" in open_to
        assert "'port': 26379" in open_to


REDIS_CLI = shutil.which("redis-cli")


@pytest.mark.skipif(REDIS_CLI is None, reason="redis-cli is not installed")
def test_redis_cli_takes_the_url_that_the_components_get(tmp_path: Path) -> None:
    """redis-cli 7.0 sends the empty user name of `redis://:PASSWORD@…` to the server, which refuses it."""
    bridge = container(only(render(SECRET), "Deployment", "milepost-bridge"))
    url = environment(bridge, {"redis-password": PASSWORD})["REDIS_URL"]
    assert url.startswith(f"redis://default:{PASSWORD}@")
    with Rendered(tmp_path) as server:
        here = url.replace("milepost-redis:6379", f"{HOST}:{server.port}")
        found = subprocess.run([str(REDIS_CLI), "-u", here, "ping"], capture_output=True, text=True, check=True)
        assert found.stdout == "PONG\n"
        with redis.Redis.from_url(here) as client:
            assert client.ping()


@pytest.mark.parametrize("path", ["README.md", "SECURITY.md", "docs/*.md", "helm/**/*", "knative/**/*"])
def test_no_document_or_manifest_has_a_url_that_redis_cli_refuses(path: str) -> None:
    for file in ROOT.glob(path):
        if file.is_file():
            assert not re.search("rediss?://:", file.read_text()), file


def test_memory_limit_leaves_room_for_a_rewrite_of_the_append_only_file() -> None:
    for layers in [(SECRET,), ("values-dev.yaml", SECRET)]:
        found = container(only(render(*layers), "StatefulSet", "milepost-redis"))
        maximum = int(found["args"][found["args"].index("--maxmemory") + 1].removesuffix("mb"))
        assert 2 * maximum <= int(found["resources"]["limits"]["memory"].removesuffix("Mi"))


def test_servers_keep_their_data_on_a_volume() -> None:
    for name in ("milepost-redis", "milepost-mongo"):
        spec = only(render(SECRET), "StatefulSet", name)["spec"]
        (claim,) = spec["volumeClaimTemplates"]
        (found,) = spec["template"]["spec"]["containers"]
        assert claim["metadata"]["name"] in {mount["name"] for mount in found["volumeMounts"]}
        assert spec["template"]["spec"]["securityContext"]["fsGroup"] == found["securityContext"]["runAsUser"]
