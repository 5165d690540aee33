"""Stages with a `url`: a route and headers from Secrets, but no function. And pipelines without gateway or MongoDB."""

import json
from typing import Any

import pytest
from helm_python import HelmError

from milepost.bridge.settings import BridgeSettings
from milepost.stage_values import StageEntry
from tests.chart.rendering import SECRET, container, environment, functions, merged, of_kind, only, render
from tests.chart.test_security import arrows, outward

HOOK = {
    "consumes": "email:sent",
    "url": "https://hooks.example.org/mails?x=1",
    "headersFrom": {"Authorization": {"name": "hook", "key": "authorization"}},
    "delivery": {"deadline": "PT1H", "delay": "PT10M", "retry": 2},
}
SECRET_KEY = {"name": "hook", "key": "id"}
BROKER = merged(SECRET, {"delivery": "broker"})
SECRETS = {"redis-password": "hush", "authorization": "Bearer hush"}


def with_hook(**changes: Any) -> dict[str, Any]:
    entry = {name: value for name, value in {**HOOK, **changes}.items() if value is not None}
    return merged(SECRET, {"stages": {"hook": entry}})


def named(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(found["kind"], found["metadata"]["name"]) for found in objects}


def test_a_url_is_a_route_and_no_object_of_its_own() -> None:
    assert named(render(with_hook())) == named(render(SECRET))
    bridge = container(only(render(with_hook()), "Deployment", "milepost-bridge"))
    (routes,) = [json.loads(variable["value"]) for variable in bridge["env"] if variable["name"] == "ROUTES"]
    assert {route["name"]: route for route in routes}["hook"] == {
        "name": "hook",
        "consumes": "email:sent",
        "url": "https://hooks.example.org/mails?x=1",
        "external": True,
        "headersFrom": {"Authorization": "HEADER_HOOK_AUTHORIZATION"},
        "deadline": "PT1H",
        "delay": "PT10M",
        "retry": 2,
    }


@pytest.mark.parametrize("mode", ["direct", "broker"])
def test_bridge_and_gateway_know_whose_receiver_it_is(mode: str) -> None:
    changes: dict[str, Any] = {"delivery": None, "headersFrom": None} if mode == "broker" else {}
    objects = render(merged(with_hook(**changes), {"delivery": mode}))
    for name, variable in (("bridge", "ROUTES"), ("gateway", "STAGES")):
        env = container(only(objects, "Deployment", f"milepost-{name}"))["env"]
        (stages,) = [json.loads(one["value"]) for one in env if one["name"] == variable]
        assert {stage["name"] for stage in stages if stage.get("external")} == {"hook"}


def test_the_bridge_reads_its_headers_from_the_secret_by_the_name_that_milepost_up_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = container(only(render(with_hook()), "Deployment", "milepost-bridge"))
    (variable,) = StageEntry(name="hook", **HOOK).variables.values()
    assert {"name": variable, "valueFrom": {"secretKeyRef": {"name": "hook", "key": "authorization"}}} in bridge["env"]
    for name, value in environment(bridge, SECRETS).items():
        monkeypatch.setenv(name, value)
    (hook,) = [stage for stage in BridgeSettings.read().routes if stage.name == "hook"]
    assert {name: value.get_secret_value() for name, value in hook.headers_from.items()} == {
        "Authorization": "Bearer hush"
    }
    assert hook.deadline is not None
    assert (hook.deadline.total_seconds(), hook.delay.total_seconds()) == (3600, 600)


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://hooks.example.org/x", 443), ("http://hooks.example.org", 80), ("http://hooks.example.org:8080/", 8080)],
)
def test_bridge_may_reach_the_port_of_a_url(url: str, port: int) -> None:
    before = outward(render(SECRET), "bridge")
    assert outward(render(with_hook(url=url)), "bridge") - before == {("*", port)}


def test_egress_of_the_entry_replaces_the_port_of_a_url() -> None:
    rule = {"ports": [{"port": 8443}], "to": [{"podSelector": {"matchLabels": {"app": "hook"}}}]}
    assert outward(render(with_hook(egress=[rule])), "bridge") - outward(render(SECRET), "bridge") == {
        ("app=hook", 8443)
    }


def test_url_is_the_triggers_subscriber_in_broker_mode() -> None:
    plain = with_hook(headersFrom=None, delivery={"deadline": "PT1H", "retry": 2})
    objects = render(merged(plain, {"delivery": "broker"}))
    trigger = only(objects, "Trigger", "milepost-hook")
    assert trigger["spec"]["subscriber"] == {"uri": HOOK["url"]}
    assert set(trigger["spec"]["delivery"]) == {"retry", "backoffPolicy", "backoffDelay", "timeout", "deadLetterSink"}
    assert "hook" not in functions(objects)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (with_hook(url=None), "stages.hook: headersFrom is for a url"),
        (with_hook(mongo=True), "stages.hook: mongo is for a function"),
        (with_hook(env={"A": "1"}), "stages.hook: env is for a function"),
        (with_hook(minScale=1), "stages.hook: minScale is for a function"),
        (with_hook(url="ftp://x"), "/stages/hook/url"),
        (with_hook(url="https://me:secret@x/"), "/stages/hook/url"),
        (with_hook(headersFrom={"a b": {"name": "x", "key": "y"}}), "'a b'"),
        (with_hook(headersFrom={"A": {"name": "x"}}), "/stages/hook/headersFrom/A"),
        (
            merged(
                with_hook(headersFrom={"Id-Id": SECRET_KEY}),
                {"stages": {"hook-id": {**HOOK, "headersFrom": {"Id": SECRET_KEY}}}},
            ),
            "share the variable HEADER_HOOK_ID_ID",
        ),
        (with_hook(delivery={"delay": "10m"}), "/stages/hook/delivery/delay"),
        (merged(with_hook(), {"delivery": "broker"}), "stages.hook.headersFrom: a Trigger sends no headers"),
        (merged(with_hook(headersFrom=None), {"delivery": "broker"}), "stages.hook.delivery.delay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_entry_is_refused_by_name(layer: dict[str, Any], told: str) -> None:
    with pytest.raises(HelmError) as refusal:
        render(layer)
    assert told in str(refusal.value)


@pytest.mark.parametrize("values", [SECRET, BROKER], ids=["direct", "broker"])
def test_a_pipeline_without_gateway_and_mongodb_has_none(values: dict[str, Any]) -> None:
    none = {stage: {"mongo": False} for stage in ("store", "email")}
    objects = render(merged(values, {"gateway": {"enabled": False}, "stages": none}))
    gone = named(render(values)) - named(objects)
    assert {name for _, name in gone} == {"milepost-gateway", "milepost-mongo", "milepost-test"}
    assert not {name for _, name in named(objects)} & {"milepost-gateway", "milepost-mongo", "milepost-test"}
    assert {source for source, target in arrows(objects) if target == "redis"} == {"bridge"}
    assert of_kind(objects, "Deployment")
