"""examples/orders: a split, one of two channels, order by customer, and receivers that are not ours."""

import json
import re
import shlex
from pathlib import Path

import yaml

from tests.chart.rendering import SECRET, container, functions, merged, only, read, render
from tests.cli.running import Up
from tests.examples.example import EXAMPLES, check_own_tests, copied, milepost, receiving
from tests.servers import free_port, wait_for

ORDERS = EXAMPLES / "orders"
README = (ORDERS / "README.md").read_text()
COMMANDS = re.findall(r"^    (milepost publish order .*)$", README, re.MULTILINE)
PRINTED = re.findall(r"^    ((?:warehouse|supplier): .*)$", README, re.MULTILINE)


def test_its_own_tests_pass_in_its_own_folder() -> None:
    check_own_tests(ORDERS)


def test_commands_of_its_readme_do_what_it_says(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first, *later = COMMANDS
    with receiving(ORDERS, tmp_path / "printed", port=free_port()) as receiver:
        project = copied(ORDERS, tmp_path / "orders", receiver)
        with Up(data, "--project", str(project), env={"PYTHONPATH": ""}) as up:
            up.ready()
            assert up.stack["pids"].keys() == {"redis", "unpack", "reserve", "bridge"}
            publish(first, data)
            wait_for(lambda: PRINTED[:2] == sorted(receiver.printed.splitlines()[1:], reverse=True), what="both items")
            receiver.stop()
            for command in later:
                publish(command, data)
            with receiving(ORDERS, tmp_path / "again", port=receiver.port) as again:
                wait_for(lambda: again.printed.splitlines()[1:] == PRINTED[2:], what="both in order")
            publish("milepost publish order {}", data)
            wait_for(lambda: "customer" in milepost("dead", "list", "--data", str(data)).stdout, what="a dead letter")
            assert up.end() == 0


def publish(command: str, data: Path) -> None:
    _, *arguments = shlex.split(command)
    assert milepost(*arguments, "--data", str(data)).returncode == 0


def test_its_values_and_the_chart_make_its_own_pipeline_and_nothing_else() -> None:
    values = yaml.safe_load((ORDERS / "helm" / "values.yaml").read_text())
    others = {"stages": dict.fromkeys(read("values.yaml")["stages"])}  # --set stages.NAME=null
    objects = render(merged(SECRET, others, values))
    assert set(functions(objects)) == {"unpack", "reserve"}
    components = {found["metadata"]["labels"]["app.kubernetes.io/component"] for found in objects}
    assert components == {"unpack", "reserve", "bridge", "redis"}
    env = container(only(objects, "Deployment", "milepost-bridge"))["env"]
    routes = {
        route["name"]: route for route in json.loads(next(one["value"] for one in env if one["name"] == "ROUTES"))
    }
    assert {name: route["order"] for name, route in routes.items()} == dict.fromkeys(values["stages"], "customer")
    assert routes["unpack"]["split"] is True
    assert routes["reserve"]["emits"] == ["reserved", "back-ordered"]
    assert {name for name, route in routes.items() if route.get("external")} == {"warehouse", "supplier"}
