"""Wrong values are refused, and the message names them."""

from typing import Any

import pytest
import yaml
from helm_python import HelmError

from milepost import stage_values
from tests.chart.rendering import HELM, SECRET, merged, read, render
from tests.servers import ROOT


def refused(*layers: str | dict[str, Any]) -> str:
    with pytest.raises(HelmError) as refusal:
        render(*layers)
    return str(refusal.value)


def stage(**entry: Any) -> dict[str, Any]:
    return merged(SECRET, {"stages": {"mine": {"consumes": "email:sent", **entry}}})


def paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all maps whose keys the chart defines."""
    free = {"stages", "env", "labels", "annotations", "secretEnv"}
    found = [] if path and path[-1] in free else [path]
    for key, value in values.items():
        if isinstance(value, dict):
            found += paths(value, (*path, key))
    return found


@pytest.mark.parametrize("path", paths(read("values.yaml")), ids=".".join)
def test_a_misspelt_key_is_refused_by_name(path: tuple[str, ...]) -> None:
    wrong: dict[str, Any] = {"mispelt": 1}
    for key in reversed(path):
        wrong = {key: wrong}
    assert "mispelt" in refused(merged(SECRET, wrong))


@pytest.mark.parametrize("file", ["values-dev.yaml", "values-prod.yaml"])
def test_values_file_has_no_unknown_key(file: str) -> None:
    render(file, SECRET)
    unknown = merged(read(file), SECRET, {"mispelt": 1})
    assert "mispelt" in refused(unknown)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ({"delivery": "pubsub"}, "delivery"),
        ({"functions": {"visibility": "private"}}, "visibility"),
        ({"functions": {"env": {"A": 1}}}, "/functions/env/A"),
        ({"functions": {"scaleToZeroAfter": "soon"}}, "scaleToZeroAfter"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"redis": {"url": "http://x"}}, "/redis/url"),
        ({"redis": {"appendfsync": "no"}}, "appendfsync"),
        ({"journal": {"deadline": "24h"}}, "/journal/deadline"),
        ({"bridge": {"replicas": 0}}, "replicas"),
        ({"stages": {"Mine": {"consumes": "x"}}}, "Mine"),
        ({"stages": {"mine": {"emits": "x"}}}, "consumes"),
        ({"stages": {"mine": {"consumes": "a b"}}}, "consumes"),
        ({"stages": {"mine": {"consumes": "dead:x"}}}, "consumes"),
        ({"stages": {"mine": {"consumes": "x", "url": "http://me:12/secret@host"}}}, "url"),
        ({"stages": {"mine": {"consumes": "x", "delivery": {"retries": 3}}}}, "retries"),
        ({"stages": {"mine": {"consumes": "x", "delivery": {"timeout": "PT10M"}}}}, "PT570S"),
        ({"stages": {"mine": {"consumes": "x", "emits": "x"}}}, "for ever"),
        ({"stages": {"mine": {"consumes": "x", "emits": ["y", "x"]}}}, "for ever"),
        ({"stages": {"mine": {"consumes": "x", "emits": ["y", "y"]}}}, "emits"),
        ({"stages": {"mine": {"consumes": "x", "emits": []}}}, "emits"),
        ({"stages": {"mine": {"consumes": "x", "split": True}}}, "emits nothing that could be several"),
        (
            {"delivery": "broker", "stages": {"mine": {"consumes": "x", "emits": "y", "split": True}}},
            "stages.mine.split: a Broker takes one reply to an event; use direct delivery",
        ),
        (
            {"delivery": "broker", "stages": {"mine": {"consumes": "x", "order": "customer"}}},
            "stages.mine.order: a Broker keeps no order; use direct delivery",
        ),
        ({"stages": {"mine": {"consumes": "x", "order": ""}}}, "order"),
        ({"stages": {"mine": {"consumes": "x", "order": 7}}}, "order"),
        ({"stages": {"m" * 50: {"consumes": "x"}}}, "50 characters"),
        ({"redis": {"enabled": False}, "existingSecret": ""}, "redis-url"),
        ({"mongo": {"enabled": False}, "existingSecret": ""}, "mongo-url"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_name(layer: dict[str, Any], told: str) -> None:
    assert told in refused(merged(SECRET, layer))


def test_event_that_would_come_back_with_its_id_is_refused() -> None:
    there, back = {"consumes": "a", "emits": ["b", "c"]}, {"consumes": "b", "emits": "a"}
    end = {"consumes": "c", "emits": "d"}
    circle = merged(SECRET, {"stages": {"there": there, "back": back, "end": end}})
    assert "stages: back and there are a circle" in refused(circle)
    render(merged(circle, {"stages": {"back": {**back, "split": True}}}))


def test_a_channel_emitted_twice_is_refused() -> None:
    for emits in ("user:email", ["other", "user:email"]):
        told = refused(stage(emits=emits))
        assert "user:email is emitted by" in told
        assert "mine" in told
        assert "store" in told


@pytest.mark.parametrize("name", ["bridge", "gateway", "redis", "mongo", "broker", "milepost"])
def test_no_stage_is_called_like_a_component(name: str) -> None:
    assert f"stages.{name}" in refused(merged(SECRET, {"stages": {name: {"consumes": "x"}}}))


def test_stage_name_that_collides_with_a_reply_trigger_is_refused() -> None:
    named = merged(SECRET, {"stages": {"store-reply": {"consumes": "x"}}})
    assert "stages.store-reply" in refused(merged(named, {"delivery": "broker"}))
    render(named)
    second = merged(SECRET, {"delivery": "broker", "stages": {"store-reply-2": {"consumes": "x"}}})
    assert "stages.store-reply-2" in refused(second)


@pytest.mark.parametrize(
    ("layer", "total"),
    [
        ({"broker": {"timeout": "PT20M"}}, 2 * (9 * 60 + 0.5 * 255)),
        ({"broker": {"delivery": {"retry": 12}}}, 2 * (13 * 60 + 0.5 * 4095)),
        ({"broker": {"delivery": {"retry": 20, "backoffPolicy": "linear"}}}, 2 * (21 * 60 + 0.5 * 210)),
        ({"stages": {"email": {"delivery": {"timeout": "PT2M"}}}}, 2 * (9 * 120 + 0.5 * 255)),
    ],
    ids=str,
)
def test_a_broker_route_that_would_give_up_before_the_triggers_is_refused(layer: dict[str, Any], total: float) -> None:
    broker = merged(SECRET, {"delivery": "broker"}, layer)
    told = refused(broker)
    assert "broker.timeout" in told
    assert f"{total:g} s" in told
    longer = f"PT{int(total) + 1}S"
    render(merged(broker, {"broker": {"timeout": longer}}))
    render(merged(broker, {"delivery": "direct"}))


def test_milepost_up_reads_the_same_stages() -> None:
    """It ignores the keys of a row that only the chart reads."""
    entries = {entry.name: entry for entry in stage_values.read(ROOT)}
    assert set(entries) == set(read("values.yaml")["stages"])
    text = (HELM / "values.yaml").read_text()
    assert yaml.safe_load(text)["stages"]["store"]["mongo"] is True
