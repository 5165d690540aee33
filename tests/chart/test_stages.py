"""`stages:` in the values: the chart deploys the wiring of the functions' annotations, and one row makes one stage."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from helm_python import HelmError

from gateway.settings import GatewaySettings
from milepost.bridge.settings import BridgeSettings
from milepost.function.description import Description
from milepost.graph import several
from milepost.testing import described, load
from tests.chart.rendering import SECRET, Object, container, environment, functions, merged, of_kind, only, read, render
from tests.servers import ROOT, Module, Valkey

SECRETS = {"redis-password": "hush", "mongo-password": "hush"}
BROKER = merged(SECRET, {"delivery": "broker"})
MINE = {"stages": {"mine": {"consumes": "email:sent", "emits": "mine:done", "delivery": {"retry": 3}}}}


def description(stage: str) -> Description:
    """Return the description that the annotations of functions/<stage>/main.py give."""
    return described(load(ROOT / "functions" / stage / "main.py"))


def routes(objects: list[Object]) -> dict[str, dict[str, Any]]:
    env = environment(container(only(objects, "Deployment", "milepost-bridge")), SECRETS)
    return {route["name"]: route for route in json.loads(env["ROUTES"])}


def test_every_folder_with_a_function_is_a_stage() -> None:
    assert {path.parent.name for path in ROOT.glob("functions/*/main.py")} == set(read("values.yaml")["stages"])


@pytest.mark.parametrize("values", [SECRET, BROKER], ids=["direct", "broker"])
@pytest.mark.parametrize("stage", sorted(read("values.yaml")["stages"]))
def test_the_routes_rendered_are_the_codes_annotations(stage: str, values: dict[str, Any]) -> None:
    told = description(stage)
    route = routes(render(values))[stage]
    assert told.name == stage
    assert route["consumes"] == told.consumes.channel
    assert list(several(route.get("emits"))) == [payload.channel for payload in told.emits]


def test_a_direct_route_leads_to_its_own_knative_service() -> None:
    objects = render(SECRET)
    for name, route in routes(objects).items():
        service, namespace, suffix = urlsplit(route["url"]).netloc.split(".")
        found = functions(objects)[name]["metadata"]
        assert (service, namespace, suffix) == (found["name"], found["namespace"], "svc")


@pytest.mark.parametrize("values", [SECRET, BROKER], ids=["direct", "broker"])
def test_routes_say_when_each_function_is_woken(values: dict[str, Any]) -> None:
    stages = {"store": {"minScale": 1, "wake": "page"}, "email": {"wake": "page", "wakeAfter": "1m0.5s"}}
    objects = render(merged(values, {"functions": {"wake": False, "wakeDelay": "0.3s"}, "stages": stages}))
    given = {name: (route["wake"], route["wakeAfter"], route["wakeDelay"]) for name, route in routes(objects).items()}
    # YAML reads a bare `off` as false. What never scales to zero is never woken.
    expected = {"distance": ("off", 30, 0.3), "store": ("off", 30, 0.3), "email": ("page", 60.5, 0.3)}
    assert given.items() >= expected.items(), "a project may have more stages"
    gateway = json.loads(environment(container(only(objects, "Deployment", "milepost-gateway")), SECRETS)["STAGES"])
    assert {stage["name"]: stage.get("wake") for stage in gateway if "wake" in stage} == {"email": "page"}
    assert {route["wake"] for route in routes(render(values)).values()} == {"event"}


@pytest.mark.parametrize(
    "wrong",
    [{"wake": "on"}, {"wakeAfter": "0s"}, {"wakeAfter": "0.0000001s"}, {"wakeAfter": 30}, {"wakeDelay": "1.5m"}],
)
def test_wrong_wake_values_are_refused(wrong: dict[str, Any]) -> None:
    for values in ({"functions": wrong}, {"stages": {"store": wrong}}):
        with pytest.raises(HelmError):
            render(merged(SECRET, values))


def test_null_wake_values_give_the_defaults() -> None:
    given = routes(render(merged(SECRET, {"functions": {"wake": None, "wakeAfter": None, "wakeDelay": None}})))
    assert given == routes(render(SECRET))


def test_one_entry_is_one_more_stage() -> None:
    before, after = render(SECRET), render(merged(SECRET, MINE))
    assert set(functions(after)) - set(functions(before)) == {"mine"}
    assert routes(after)["mine"] == {
        "name": "mine",
        "consumes": "email:sent",
        "emits": "mine:done",
        "url": "http://milepost-mine.milepost.svc",
        "wake": "event",
        "wakeAfter": 30,
        "wakeDelay": 0,
        "retry": 3,
    }
    assert container(functions(after)["mine"])["image"] == "dev.local/milepost-mine:0.1.0"
    new = {(found["kind"], found["metadata"]["name"]) for found in after} - {
        (found["kind"], found["metadata"]["name"]) for found in before
    }
    assert new == {(kind, "milepost-mine") for kind in ("Service", "ServiceAccount", "NetworkPolicy")}


def test_one_entry_is_two_more_triggers_in_broker_mode() -> None:
    before, after = render(BROKER), render(merged(BROKER, MINE))
    names = [{found["metadata"]["name"] for found in of_kind(objects, "Trigger")} for objects in (before, after)]
    assert names[1] - names[0] == {"milepost-mine", "milepost-mine-reply"}
    assert "retry" not in routes(after)["mine"]


def test_stage_of_several_channels_has_a_reply_trigger_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = {"stages": {"decide": {"consumes": "email:sent", "emits": ["approved", "declined"]}}}
    assert routes(render(merged(SECRET, decide)))["decide"]["emits"] == ["approved", "declined"]
    objects = render(merged(BROKER, decide))
    filters = {found["metadata"]["name"]: found["spec"]["filter"] for found in of_kind(objects, "Trigger")}
    assert filters["milepost-decide-reply"] == {"attributes": {"type": "approved"}}
    assert filters["milepost-decide-reply-2"] == {"attributes": {"type": "declined"}}
    for deployment, settings in (("bridge", BridgeSettings), ("gateway", GatewaySettings)):
        env = environment(container(only(objects, "Deployment", f"milepost-{deployment}")), SECRETS)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        read_back = settings.read()
        stages = read_back.routes if isinstance(read_back, BridgeSettings) else read_back.stages
        assert {stage.name: stage.emits for stage in stages}["decide"] == ("approved", "declined")


def test_stage_that_splits_says_so_to_bridge_and_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(merged(SECRET, {"stages": {"parcel": {"consumes": "x", "emits": "y", "split": True}}}))
    assert routes(objects)["parcel"]["split"] is True
    assert "split" not in routes(objects)["distance"]
    for name, value in environment(container(only(objects, "Deployment", "milepost-gateway")), SECRETS).items():
        monkeypatch.setenv(name, value)
    assert {stage.name: stage.split for stage in GatewaySettings.read().stages}["parcel"]


@pytest.mark.parametrize("order", ["customer", True])
def test_order_of_a_stage_is_that_of_its_route(monkeypatch: pytest.MonkeyPatch, order: str | bool) -> None:
    entries = {
        "parcel": {"consumes": "x", "emits": "y", "order": order},
        "post": {"consumes": "y", "order": order, "url": "https://post.example.org"},
        "free": {"consumes": "y", "order": False},
    }
    objects = render(merged(SECRET, {"stages": entries}))
    for settings, deployment in ((BridgeSettings, "bridge"), (GatewaySettings, "gateway")):
        env = environment(container(only(objects, "Deployment", f"milepost-{deployment}")), SECRETS)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        read_back = settings.read()
        stages = read_back.routes if isinstance(read_back, BridgeSettings) else read_back.stages
        orders = {stage.name: stage.order for stage in stages}
        assert [orders[name] for name in (*entries, "distance")] == [order, order, False, False]


def test_a_stage_that_emits_nothing_has_no_reply() -> None:
    end = {"stages": {"mine": {"consumes": "email:sent"}}}
    assert "emits" not in routes(render(merged(SECRET, end)))["mine"]
    names = {found["metadata"]["name"] for found in of_kind(render(merged(BROKER, end)), "Trigger")}
    assert "milepost-mine" in names
    assert "milepost-mine-reply" not in names


def test_with_a_batch_pods_come_sooner_since_a_request_is_many_events() -> None:
    def target(values: dict[str, Any], stage: dict[str, Any]) -> str | None:
        found = functions(render(merged(values, {"stages": {"distance": stage}})))["distance"]
        annotations: dict[str, str] = found["spec"]["template"]["metadata"]["annotations"]
        return annotations.get("autoscaling.knative.dev/target")

    assert target(SECRET, {}) == "7", "50 events at once, up to 8 a request"
    assert target(SECRET, {"delivery": {"batch": 2}}) == "25"
    assert target(SECRET, {"concurrency": 1}) == "1"
    assert target(SECRET, {"concurrency": 0}) is None, "as many as come"
    assert target(SECRET, {"delivery": {"batch": 1}}) is None, "containerConcurrency says it"
    assert target(BROKER, {}) is None, "a Trigger sends one event at a time"


def test_entry_overrides_the_defaults_of_all_stages() -> None:
    entry = {"minScale": 2, "concurrency": 1, "env": {"A": "1"}, "resources": {"limits": {"memory": "1Gi"}}}
    objects = render(merged(SECRET, {"functions": {"env": {"B": "2"}}, "stages": {"distance": entry}}))
    mine, others = functions(objects)["distance"], functions(objects)["store"]
    template = mine["spec"]["template"]
    assert template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "2"
    assert template["spec"]["containerConcurrency"] == 1
    assert environment(container(mine), SECRETS) == {"A": "1", "B": "2", "REQUEST_TIMEOUT": "60", "LOG_FORMAT": "json"}
    assert container(mine)["resources"]["limits"]["memory"] == "1Gi"
    assert container(mine)["resources"]["requests"] == container(others)["resources"]["requests"]
    assert others["spec"]["template"]["spec"]["containerConcurrency"] == 50
    assert "A" not in environment(container(others), SECRETS)


@pytest.mark.parametrize("values", [SECRET, BROKER], ids=["direct", "broker"])
def test_a_function_that_hangs_ends_by_its_callers_timeout_and_not_by_knatives(values: dict[str, Any]) -> None:
    """The bridge does not count a 504 of the queue-proxy, so such an event would be tried for ever."""
    slow = {"stages": {"email": {"delivery": {"timeout": "PT1M30.5S"}}}, "broker": {"timeout": "PT2H"}}
    for name, waits in (("email", 90.5), ("store", 60)):
        found = functions(render(merged(values, slow)))[name]
        assert environment(container(found), SECRETS)["REQUEST_TIMEOUT"] == f"{waits:g}"
        assert waits + 20 < found["spec"]["template"]["spec"]["timeoutSeconds"] <= 600


@pytest.mark.parametrize("values", [SECRET, BROKER, merged(SECRET, MINE)], ids=["direct", "broker", "one more"])
def test_bridge_accepts_its_rendered_settings(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(values)
    env = environment(container(only(objects, "Deployment", "milepost-bridge")), SECRETS)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = BridgeSettings.read()
    assert {stage.name for stage in settings.routes} == set(functions(objects))
    assert settings.redis_url.get_secret_value() == "redis://default:hush@milepost-redis:6379"
    assert settings.backlog_limit == 1_000_000
    assert settings.deadline.total_seconds() == 86400
    assert settings.delivery == values.get("delivery", "direct")
    if settings.delivery == "broker":
        assert settings.broker_timeout.total_seconds() == 1800


@pytest.mark.parametrize("values", [SECRET, BROKER, merged(SECRET, MINE)], ids=["direct", "broker", "one more"])
def test_the_gateway_knows_the_stages(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(values)
    env = environment(container(only(objects, "Deployment", "milepost-gateway")), SECRETS)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stages = {stage.name: (stage.consumes, stage.emits) for stage in GatewaySettings.read().stages}
    assert stages.keys() == set(functions(objects))
    assert stages["distance"] == ("raw_input", ("calculated_distance",))


def test_every_process_logs_json_by_default() -> None:
    for deployment in ("bridge", "gateway"):
        as_text = merged(SECRET, {deployment: {"env": {"LOG_FORMAT": "text"}}})
        for values, expected in ((SECRET, "json"), (as_text, "text")):
            found = container(only(render(values), "Deployment", f"milepost-{deployment}"))
            assert environment(found, SECRETS)["LOG_FORMAT"] == expected
    for found in functions(render(SECRET)).values():
        assert environment(container(found), SECRETS)["LOG_FORMAT"] == "json"


@pytest.mark.parametrize(("deployment", "module"), [("bridge", "milepost.bridge"), ("gateway", "gateway")])
def test_each_process_starts_with_its_rendered_environment(deployment: str, module: str, tmp_path: Path) -> None:
    """With its whole environment except the URL of Redis. Its readiness and liveness probes succeed."""
    found = container(only(render(SECRET), "Deployment", f"milepost-{deployment}"))
    with Valkey(tmp_path) as valkey:
        env = environment(found, SECRETS) | {"REDIS_URL": valkey.url}
        with Module(tmp_path, module, env=env, ready=found["readinessProbe"]["httpGet"]["path"]) as process:
            assert process.alive
            assert "Traceback" not in process.log
            assert found["livenessProbe"]["httpGet"]["path"] == "/healthz"
