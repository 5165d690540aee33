"""The settings of a bridge, and the refusal of wrong ones."""

from datetime import timedelta
from typing import Any

import pytest

from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError

ROW = {"name": "distance", "consumes": "raw_input", "emits": "calculated_distance", "url": "http://distance/"}


def read(**given: Any) -> BridgeSettings:
    return BridgeSettings.read(**given)


def test_delivery_is_read_by_knatives_names() -> None:
    tries = {"retry": 3, "crashRetry": 7, "backoffPolicy": "linear", "backoffDelay": "PT1.5S", "timeout": "PT2M"}
    (stage,) = read(routes=[{**ROW, **tries}]).routes
    assert (stage.retry, stage.crash_retry, stage.backoff_policy) == (3, 7, "linear")
    assert (stage.backoff_delay, stage.timeout) == (timedelta(seconds=1.5), timedelta(minutes=2))


def test_settings_have_the_documented_defaults() -> None:
    settings = read(routes=[ROW])
    (stage,) = settings.routes
    assert (stage.retry, stage.crash_retry, stage.backoff_policy) == (10, 50, "exponential")
    assert (stage.backoff_delay, stage.timeout) == (timedelta(seconds=0.2), timedelta(seconds=60))
    assert (settings.claim, settings.lease) == (timedelta(seconds=30), timedelta(seconds=10))
    assert (settings.deadline, settings.dedup) == (timedelta(hours=24), timedelta(hours=1))


def test_routes_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTES", '[{"name":"a","consumes":"in","emits":null,"url":"https://a.example/x?y=1"}]')
    monkeypatch.setenv("CLAIM", "PT2S")
    settings = read()
    assert settings.routes[0].url == "https://a.example/x?y=1"
    assert settings.claim == timedelta(seconds=2)


@pytest.mark.parametrize("text", ["", "nonsense", "[", "{'name': 1}"])
def test_routes_that_are_not_json_are_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ROUTES", text)
    with pytest.raises(ConfigurationError, match=r"^ROUTES: must be JSON$"):
        read()


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "names no stage"),
        ([ROW, ROW], "distance named twice"),
        ([ROW, {**ROW, "name": "other"}], "calculated_distance is emitted by distance and other"),
        ([ROW, {**ROW, "name": "other"}], "answers of two to one event would have the same id there"),
        ([{**ROW, "consumes": "calculated_distance"}], "distance are a circle"),
        ([{**ROW, "name": "broker"}], "no stage can be called broker or bridge"),
        ([{**ROW, "name": "bridge"}], "no stage can be called broker or bridge"),
        ([{**ROW, "name": "Distance"}], "NAME"),
        ([{**ROW, "name": ""}], "NAME"),
        ([{**ROW, "name": "a" * 64}], "NAME"),
        ([{**ROW, "consumes": ""}], "CONSUMES"),
        ([{**ROW, "consumes": "two words"}], "CONSUMES"),
        ([{**ROW, "consumes": "dead:store"}], "CONSUMES: names that begin with"),
        ([{**ROW, "emits": ["parts:store"]}], "EMITS.0: names that begin with"),
        ([{**ROW, "url": None}], "distance: url is missing"),
        ([{**ROW, "url": "distance/secret"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "ftp://distance/secret"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "http:///secret"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "http://distance:99999/secret"}], "its host or port cannot be read"),
        ([{**ROW, "url": "http://distance:0/secret"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "http://dist ance/secret: word"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "http://distance/secret#top"}], "must look like http://host:port/path"),
        ([{**ROW, "url": "http://me:secret@distance"}], "must hold no user or password"),
        ([{**ROW, "url": "http://me:secret/word@distance"}], "its host or port cannot be read"),
        ([{**ROW, "url": "http://me:secret℀@distance"}], "its host or port cannot be read"),
        ([{**ROW, "url": "http://me:12/secret@distance"}], "must hold no user or password"),
        ([{**ROW, "url": "http://me/secret@distance"}], "must hold no user or password"),
        ([{**ROW, "url": "http://me:12?secret@distance"}], "must hold no user or password"),
        ([{**ROW, "consumes": "a" * 201}], "CONSUMES"),
        ([{**ROW, "retry": -1}], "RETRY"),
        ([{**ROW, "crashRetry": -1}], "CRASHRETRY"),
        ([{**ROW, "delay": "-PT1S"}], "DELAY"),
        ([{**ROW, "deadline": "PT0S"}], "DEADLINE"),
        ([{**ROW, "batch": 0}], "BATCH"),
        ([{**ROW, "batch": 513}], "BATCH"),
        ([{**ROW, "wakeAfter": "PT0S"}], "WAKEAFTER"),
        ([{**ROW, "wakeDelay": "-PT1S"}], "WAKEDELAY"),
        ([{**ROW, "backoffDelay": "PT0S"}], "BACKOFFDELAY"),
        ([{**ROW, "timeout": "PT0S"}], "TIMEOUT"),
        ([{**ROW, "backoffPolicy": "random"}], "BACKOFFPOLICY"),
        ([{**ROW, "retries": 3}], "RETRIES"),
        ([{**ROW, "emits": ["a", "a"]}], "names a twice"),
        ([{**ROW, "order": 1}], "ORDER: must be true (order by partitionkey), or the name of a field"),
        ([{**ROW, "order": ""}], "ORDER"),
        ([{**ROW, "order": ["email"]}], "ORDER"),
        ([{**ROW, "emits": None, "split": True}], "distance: split, but emits nothing"),
    ],
)
def test_a_row_that_is_wrong_is_refused_by_name_and_without_its_secret(rows: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(routes=rows)
    assert fault in str(caught.value)
    assert "ROUTES" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "edge",
    [
        {"name": "a"},
        {"name": "a" * 63},
        {"consumes": "a"},
        {"consumes": "a" * 200},
        {"retry": 0},
        {"crashRetry": 0},
        {"delay": "PT0S"},
        {"batch": 1},
        {"batch": 512},
        {"wakeDelay": "PT0S"},
    ],
)
def test_smallest_and_largest_values_of_a_row_are_taken(edge: dict[str, Any]) -> None:
    (stage,) = read(routes=[{**ROW, **edge}]).routes
    assert stage.model_dump(mode="json", by_alias=True).items() >= edge.items()


def test_in_broker_mode_a_row_needs_no_url() -> None:
    row = {"name": "distance", "consumes": "raw_input"}
    assert read(routes=[row], delivery="broker", k_sink="http://broker/default").k_sink == "http://broker/default"


def test_in_broker_mode_a_delay_is_refused_by_name() -> None:
    row = {"name": "distance", "consumes": "raw_input", "delay": "PT1M"}
    with pytest.raises(ConfigurationError, match="distance: delay"):
        read(routes=[row], delivery="broker", k_sink="http://broker/default")


def test_in_broker_mode_a_stage_that_splits_is_refused_by_name() -> None:
    row = {"name": "distance", "consumes": "raw_input", "emits": "item", "split": True}
    with pytest.raises(ConfigurationError, match="distance: split is for direct delivery; a Broker takes one reply"):
        read(routes=[row], delivery="broker", k_sink="http://broker/default")


def test_in_broker_mode_an_ordered_stage_is_refused_by_name() -> None:
    row = {"name": "distance", "consumes": "raw_input", "order": "email"}
    with pytest.raises(ConfigurationError, match="distance: order is for direct delivery; a Broker keeps none"):
        read(routes=[row], delivery="broker", k_sink="http://broker/default")


def test_order_of_a_route_is_a_field_or_the_partition_key_also_of_an_outside_receiver() -> None:
    for order in ("email", True, False):
        assert read(routes=[{**ROW, "order": order, "external": True}]).routes[0].order is order


@pytest.mark.parametrize("name", ["claim", "lease", "deadline", "dedup", "broker_timeout"])
def test_a_time_that_is_not_positive_is_refused(name: str) -> None:
    for given in ("PT0S", "-PT1S"):
        with pytest.raises(ConfigurationError, match=name.upper()):
            read(**{name: given})


@pytest.mark.parametrize(
    ("name", "given"), [("port", 0), ("port", 65535), ("window", 1), ("window_bytes", 1), ("grace", timedelta(0))]
)
def test_smallest_and_largest_values_of_other_settings_are_taken(name: str, given: Any) -> None:
    assert getattr(read(routes=[ROW], **{name: given}), name) == given


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("window", 0),
        ("window_bytes", 0),
        ("grace", "-PT1S"),
        ("port", -1),
        ("port", 65536),
        ("delivery", "pigeon"),
        ("k_sink", "x"),
    ],
)
def test_other_settings_are_refused_by_name(name: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()):
        read(**{name: given})
