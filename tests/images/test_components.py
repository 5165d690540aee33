"""Each component, started as its image starts it: what is missing there must fail here and not in a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract import test_distance_stage, test_email_stage, test_store_stage
from tests.images.component import Component
from tests.servers import ROOT, Mongo, Valkey


class InItsImage:
    """Mixed into a stage's contract tests: the function under test runs as in its image."""

    stage: str

    @pytest.fixture(scope="class")
    @classmethod
    def function(cls, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Component]:
        folder = tmp_path_factory.mktemp(f"image-{cls.stage}")
        with Component(folder, "function", STAGE=cls.stage, env=env) as component:
            yield component


class TestDistanceImage(InItsImage, test_distance_stage.TestDistance):
    pass


class TestStoreImage(InItsImage, test_store_stage.TestStore):
    pass


class TestEmailImage(InItsImage, test_email_stage.TestEmail):
    pass


@pytest.mark.parametrize(
    ("target", "arguments", "modules"),
    [
        ("function", {"STAGE": "distance"}, ["pymongo", "redis", "aiohttp", "fastapi", "milepost.journal", "gateway"]),
        ("bridge", {}, ["pymongo", "fastapi", "functions_framework", "functions", "milepost.cli"]),
        ("gateway", {}, ["pymongo", "functions_framework", "functions.store", "milepost.cli"]),
    ],
    ids=str,
)
def test_what_an_image_does_not_need_cannot_be_imported_there(
    target: str, arguments: dict[str, str], modules: list[str], tmp_path: Path
) -> None:
    component = Component(tmp_path, target, **arguments)
    code = f"""
import importlib.util
def there(name):
    try: return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError: return False
print([name for name in {modules!r} if there(name)])"""
    assert component.python(code) == "[]"


def test_the_whole_pipeline_runs_from_images_and_helms_test_passes(tmp_path: Path, mongo_server: Mongo) -> None:
    """The test that `helm test` runs, against five components as their images have them."""
    mongo = {"MONGO_URL": f"{mongo_server.url}/images"}
    with (
        Valkey(tmp_path) as valkey,
        Component(tmp_path, "function", STAGE="distance") as distance,
        Component(tmp_path, "function", STAGE="store", env=mongo) as store,
        Component(tmp_path, "function", STAGE="email", env=mongo) as email,
    ):
        redis = {"REDIS_URL": valkey.url}
        routes = [
            {"name": "distance", "consumes": "raw_input", "emits": "calculated_distance", "url": distance.url},
            {"name": "store", "consumes": "calculated_distance", "emits": "user:email", "url": store.url},
            {"name": "email", "consumes": "user:email", "emits": "email:sent", "url": email.url},
        ]
        with (
            Component(tmp_path, "bridge", env={**redis, "ROUTES": json.dumps(routes)}) as bridge,
            Component(tmp_path, "gateway", env=redis) as gateway,
        ):
            found = helm_test(gateway.url)
            assert found.returncode == 0, found.stdout + found.stderr + bridge.log
            channels = [line.split()[1] for line in found.stdout.splitlines()]
            assert channels == ["raw_input", "calculated_distance", "user:email", "email:sent"]
            assert "Email sent to: ada@example.org; Message: You are 2216.0742916592476 miles" in email.log
            assert httpx.get(f"{gateway.url}/").status_code == httpx.get(f"{gateway.url}/docs").status_code == 200
            for component in (gateway, bridge, email, store, distance):
                # A function ends by the signal itself once it has stopped; as PID 1, by 0.
                assert component.stop() in {0, -signal.SIGTERM}, component.name


def test_helms_test_fails_when_no_mail_is_sent(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Component(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        found = helm_test(gateway.url, within="1")
    assert found.returncode == 1
    assert "no email:sent, only raw_input" in found.stderr


def helm_test(gateway: str, within: str = "30") -> subprocess.CompletedProcess[str]:
    env: dict[str, Any] = {**os.environ, "GATEWAY": gateway, "EMAIL": "ada@example.org", "WITHIN": within}
    return subprocess.run(
        [sys.executable, ROOT / "helm" / "files" / "submit.py"], env=env, capture_output=True, text=True, check=False
    )
