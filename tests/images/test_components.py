"""Starts each component as its image does, so that a missing file or package fails here and not in a cluster."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from redis import Redis

from milepost import stage_values
from milepost.journal import keys
from milepost.testing.contract import StageContract
from tests.chart.rendering import SECRET, container, environment, merged, only, render
from tests.images.component import Component
from tests.servers import ANSWER_WITHIN, ROOT, Mongo, Valkey

FUNCTIONS = [entry for entry in stage_values.read(ROOT) if entry.url is None]
WAY = ["raw_input", "calculated_distance", "user:email", "email:sent"]


class InItsImage:
    """Mixin for a stage's contract tests: the function runs as in its image."""

    stage: str

    @pytest.fixture(scope="class")
    @classmethod
    def function(cls, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Component]:
        folder = tmp_path_factory.mktemp(f"image-{cls.stage}")
        with Component(folder, "function", STAGE=cls.stage, env=env) as component:
            yield component


def contract_of(stage: str) -> type[StageContract]:
    """Return the stage's contract class in tests/contract."""
    module = importlib.import_module(f"tests.contract.test_{stage.replace('-', '_')}_stage")
    classes = [found for found in vars(module).values() if isinstance(found, type) and issubclass(found, StageContract)]
    (contract,) = [found for found in classes if found is not StageContract and found.stage == stage]
    return contract


for entry in FUNCTIONS:
    contract = contract_of(entry.name)
    globals()[f"{contract.__name__}Image"] = type(f"{contract.__name__}Image", (InItsImage, contract), {})
del contract  # or pytest collects it as a class of this module


@pytest.mark.parametrize(
    ("target", "arguments", "modules"),
    [
        ("function", {"STAGE": "distance"}, ["pymongo", "redis", "aiohttp", "fastapi", "milepost.journal", "gateway"]),
        ("bridge", {}, ["pymongo", "fastapi", "functions_framework", "functions", "milepost.cli"]),
        ("gateway", {}, ["pymongo", "functions_framework", "functions.store", "milepost.cli"]),
    ],
    ids=str,
)
def test_image_has_no_module_that_it_does_not_need(
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
    """Run the script of `helm test` against all components, each as in its image."""
    mongo = {"MONGO_URL": f"{mongo_server.url}/images"}
    with ExitStack() as stack:
        redis = {"REDIS_URL": stack.enter_context(Valkey(tmp_path)).url}
        functions = {
            entry.name: stack.enter_context(
                Component(tmp_path, "function", STAGE=entry.name, env=mongo if entry.mongo else {})
            )
            for entry in FUNCTIONS
        }
        routes = [
            {"name": entry.name, "consumes": entry.consumes, "emits": entry.emits, "url": functions[entry.name].url}
            for entry in FUNCTIONS
        ]
        bridge = stack.enter_context(Component(tmp_path, "bridge", env={**redis, "ROUTES": json.dumps(routes)}))
        gateway = stack.enter_context(Component(tmp_path, "gateway", env=redis))
        found = helm_test(gateway.url)
        assert found.returncode == 0, found.stdout + found.stderr + bridge.log
        reached = [line.split()[1] for line in found.stdout.splitlines()]
        assert [channel for channel in reached if channel in WAY] == WAY
        assert "Email sent to: ada@example.org; Message: You are 2216.0742916592476 miles" in functions["email"].log
        assert (
            httpx.get(f"{gateway.url}/", timeout=ANSWER_WITHIN).status_code
            == httpx.get(f"{gateway.url}/docs", timeout=ANSWER_WITHIN).status_code
            == 200
        )
        for component in (gateway, bridge, *functions.values()):
            # A function ends by the signal itself once it has stopped; as PID 1, by 0.
            assert component.stop() in {0, -signal.SIGTERM}, component.name


def test_helms_test_fails_when_no_mail_is_sent(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey, Component(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        found, refused = helm_test(gateway.url, within=1), helm_test(gateway.url, email="nobody")
    assert "the gateway refuses the form: " in refused.stderr
    assert found.returncode == 1
    assert "no email:sent, only raw_input" in found.stderr


def test_the_check_before_an_upgrade_runs_in_the_gateways_image(tmp_path: Path) -> None:
    job = only(render(merged(SECRET, {"upgrade": {"check": True}})), "Job")
    one = container(job)
    with Valkey(tmp_path) as valkey, Component(tmp_path, "gateway", env={"REDIS_URL": valkey.url}) as gateway:
        pod = environment(one, {"redis-password": "x"}) | {"REDIS_URL": valkey.url, "GATEWAY": gateway.url}
        with Redis.from_url(valkey.url) as redis:
            redis.xadd(
                keys.journal("raw_input"), {"event": '{"specversion":"1.0","id":"1","source":"/me","type":"raw_input"}'}
            )
            redis.sadd(keys.JOURNALS, "raw_input")
        found = subprocess.run(
            [gateway.venv / "bin" / "python3", *one["command"][1:]],
            cwd=gateway.app,
            env={**gateway.environment, **pod},
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 1, found.stderr
    assert "distance would refuse 1 events: data" in found.stdout


def helm_test(gateway: str, within: int = 30, email: str = "ada@example.org") -> subprocess.CompletedProcess[str]:
    """Run the script with the variables that the chart sets."""
    objects = render(merged(SECRET, {"test": {"form": {"email": email}, "within": within}}))
    (pod,) = only(objects, "Pod", "milepost-test")["spec"]["containers"]
    env = {**os.environ, **environment({"env": pod["env"]}, {}), "GATEWAY": gateway}
    return subprocess.run(
        [sys.executable, ROOT / "helm" / "files" / "submit.py"], env=env, capture_output=True, text=True, check=False
    )
