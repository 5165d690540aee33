"""`milepost up` runs the components that the stages need."""

import json
from pathlib import Path
from typing import Any

import pytest

from milepost import stage_values
from milepost.cli.local import layout
from milepost.cli.local.layout import Component, Layout
from milepost.errors import ConfigurationError
from milepost.function.environment import seconds
from tests.servers import ROOT

REAL = {"REDIS_URL": "redis://127.0.0.1:1", "MONGO_URL": "mongodb://127.0.0.1:1/mine"}
HOOK = "{consumes: b, url: 'https://hooks.example.org/', headersFrom: {Authorization: {name: hook, key: token}}}"


def lay_out(folder: Path, stages: str, environment: dict[str, str]) -> Layout:
    """A project with these stages and no gateway, laid out."""
    (folder / "helm").mkdir()
    (folder / "helm" / "values.yaml").write_text(f"stages: {stages}")
    return layout.lay_out(folder, folder, stage_values.read(folder), 8000, environment)


def of(laid_out: Layout, name: str) -> Component:
    return next(component for component in laid_out.components if component.name == name)


def test_without_a_gateway_events_come_in_by_the_bridge_and_no_unused_mongodb_runs(tmp_path: Path) -> None:
    laid_out = lay_out(tmp_path, "{a: {consumes: b, emits: c}}", {})
    assert list(laid_out.urls) == ["redis", "a", "bridge"]
    assert laid_out.door_url == of(laid_out, "bridge").url == "http://127.0.0.1:8000"
    assert list(laid_out.stack({})) == ["bridge", "redis", "functions", "pids"]


def test_only_stages_that_ask_get_mongodb_and_files(tmp_path: Path) -> None:
    stages = "{a: {consumes: b, mongo: true}, d: {consumes: b, files: {NOTES: notes}}}"
    laid_out = lay_out(tmp_path, stages, REAL)
    assert list(laid_out.urls) == ["a", "d", "bridge"]
    assert of(laid_out, "a").env["MONGO_URL"] == laid_out.mongo == REAL["MONGO_URL"]
    assert "MONGO_URL" not in of(laid_out, "d").env
    assert of(laid_out, "d").env["NOTES"] == str(tmp_path / "notes") == laid_out.stack({})["notes"]
    assert (tmp_path / "notes").is_file()
    assert "NOTES" not in of(laid_out, "a").env


def test_stage_knows_how_long_the_bridge_waits_for_it(tmp_path: Path) -> None:
    mine = "{consumes: b, env: {REQUEST_TIMEOUT: '7'}}"
    short, long = (f"{{consumes: b, delivery: {{timeout: {timeout}}}}}" for timeout in ("PT20S", "PT2H"))
    laid_out = lay_out(tmp_path, f"{{a: {short}, d: {{consumes: b}}, e: {mine}, f: {long}}}", REAL)
    assert [of(laid_out, name).env["REQUEST_TIMEOUT"] for name in "adef"] == ["20", "60", "7", "3600"]
    routes = json.loads(of(laid_out, "bridge").env["ROUTES"])
    assert [route["timeout"] for route in routes if "timeout" in route] == ["PT20S", "PT2H"]
    environ = of(laid_out, "f").env
    assert seconds(environ, "REQUEST_TIMEOUT", 60.0) == 3600, "a function starts with it"
    (tmp_path / "helm" / "values.yaml").write_text("stages: {a: {consumes: b, delivery: {timeout: soon}}}")
    with pytest.raises(ConfigurationError, match=r"stage a: delivery\.timeout must be a duration"):
        layout.lay_out(tmp_path, tmp_path, stage_values.read(tmp_path), 8000, REAL)


def test_stage_with_a_url_is_a_route_and_no_process(tmp_path: Path) -> None:
    environment = {**REAL, "HEADER_HOOK_AUTHORIZATION": "Bearer hush"}
    laid_out = lay_out(tmp_path, f"{{a: {{consumes: b, order: email}}, hook: {HOOK}}}", environment)
    assert list(laid_out.urls) == ["a", "bridge"]
    bridge = of(laid_out, "bridge").env
    routes: dict[str, dict[str, Any]] = {route["name"]: route for route in json.loads(bridge["ROUTES"])}
    assert routes["hook"]["url"] == "https://hooks.example.org/"
    assert {name: route["external"] for name, route in routes.items()} == {"a": False, "hook": True}
    assert {name: route.get("order") for name, route in routes.items()} == {"a": "email", "hook": None}
    assert bridge[routes["hook"]["headersFrom"]["Authorization"]] == "Bearer hush"
    assert "hush" not in bridge["ROUTES"]
    assert "hush" not in str(of(laid_out, "a").env)


def test_missing_variable_of_a_header_is_an_error_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="HEADER_HOOK_AUTHORIZATION: not set; stage hook sends it"):
        lay_out(tmp_path, f"{{hook: {HOOK}}}", REAL)


def test_only_the_gateway_gets_the_ops_token(tmp_path: Path) -> None:
    laid_out = layout.lay_out(ROOT, tmp_path, stage_values.read(ROOT), 8000, {**REAL, "OPS_TOKEN": "a" * 16})
    assert [one.name for one in laid_out.components if "OPS_TOKEN" in one.env] == ["gateway"]
