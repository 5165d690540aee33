"""`milepost up`: start, stop, death of a component, death of `up` itself."""

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from milepost.cli.local import layout
from milepost.errors import ConfigurationError
from tests.cli.conftest import Command
from tests.cli.running import MILEPOST, WITHIN, Up, environment, is_alive
from tests.servers import ROOT, STAGES, Valkey, http_status, wait_for

COMPONENTS = ["redis", "mongo", *STAGES, "bridge", "gateway"]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def test_up_says_when_each_component_is_ready_and_then_the_address(up: Up) -> None:
    stack = up.stack
    ready = up.lines.index(f"ready {stack['gateway']}")
    for name in COMPONENTS:
        assert any(f"{name} is ready: " in line for line in up.lines[:ready])
    assert http_status(port_of(stack["gateway"]), "/readyz") == 200


def test_stack_json_has_all_urls_and_pids(up: Up) -> None:
    stack = up.stack
    assert list(stack) == ["gateway", "bridge", "redis", "mongo", "functions", "sent_emails", "pids"]
    assert stack["functions"].keys() == set(STAGES)
    assert stack["pids"].keys() == set(COMPONENTS)
    assert all(map(is_alive, stack["pids"].values()))
    assert stack["sent_emails"] == str(up.data / "sent_emails")
    assert (up.data / "stack.json").stat().st_mode & 0o777 == 0o600


def test_log_lines_begin_with_the_aligned_component_name(up: Up) -> None:
    prefixed = [line for line in list(up.lines) if not line.startswith("ready ")]
    assert re.match(r"milepost +\| ", prefixed[0]), "no server speaks first, of how the machine is set up"
    width = max(map(len, ["milepost", *COMPONENTS]))
    assert {line.partition("|")[0] for line in prefixed} <= {f"{name:<{width}} " for name in ["milepost", *COMPONENTS]}
    assert "\x1b" not in up.output


def test_components_listen_on_127_0_0_1_only(up: Up) -> None:
    stack = up.stack
    for url in (stack["gateway"], stack["bridge"], stack["redis"], stack["mongo"], *stack["functions"].values()):
        with socket.socket() as other:
            other.settimeout(2)
            assert other.connect_ex(("127.0.0.2", port_of(url))) != 0


@pytest.mark.parametrize("name", ["distance", "bridge", "gateway", "redis", "mongo"])
def test_killed_component_is_started_again_on_the_same_port(up: Up, on_stack: Command, name: str) -> None:
    before = up.stack
    os.kill(before["pids"][name], signal.SIGKILL)
    up.wait_for_line(f"{name} was killed by SIGKILL; starting it again")
    up.wait_for(lambda: up.pids.get(name) not in {None, before["pids"][name]}, what=f"another {name} in stack.json")
    after = up.stack
    assert {**after, "pids": None} == {**before, "pids": None}
    assert is_alive(after["pids"][name])
    up.wait_for(lambda: http_status(port_of(after["gateway"]), "/readyz") == 200, what="the gateway ready")
    sent = on_stack("send", "phoenix@example.org", "32.080058", "34.864535")
    assert sent.code == 0, sent.stderr
    assert "You are 0.0 miles from Velocity." in sent.stdout


def test_a_data_folder_in_use_is_refused(up: Up, command: Command) -> None:
    refused = command("up", "--data", str(up.data), "--port", "0")
    assert refused.code == 2
    assert f"in use by another `milepost up`, process {up.process.pid}" in refused.stderr
    assert http_status(port_of(up.stack["gateway"]), "/readyz") == 200


def test_a_port_that_is_taken_is_refused(up: Up, tmp_path: Path, command: Command) -> None:
    port = port_of(up.stack["gateway"])
    refused = command("up", "--data", str(tmp_path), "--port", str(port))
    assert refused.code == 2
    assert f"port {port} of 127.0.0.1: Address already in use; choose another with --port" in refused.stderr


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://elsewhere", "REDIS_URL: must look like redis://"),
        ("redis://elsewhere/3", "REDIS_URL: must name database 0"),
    ],
)
def test_error_names_the_wrong_setting(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    refused = command("up", "--data", str(tmp_path))
    assert refused.code == 2
    assert told in refused.stderr


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("stages: {}", "has no rows under `stages:`"),
        ("stages: {lost: {consumes: a}}", "stage lost: .*main.py is missing"),
        ("stages: {redis: {consumes: a}}", "no stage can be called redis"),
        ("stages: {a: {consumes: b, url: 'http://c/', files: {D: mongo}}}", "no file of a can be called mongo"),
    ],
)
def test_error_names_the_fault_of_the_values(tmp_path: Path, values: str, told: str) -> None:
    (tmp_path / "helm").mkdir()
    (tmp_path / "helm" / "values.yaml").write_text(values)
    with pytest.raises(ConfigurationError, match=told):
        layout.read_stages(tmp_path)


def test_up_outside_a_project_is_refused(tmp_path: Path, command: Command) -> None:
    refused = command("up", "--project", str(tmp_path))
    assert refused.code == 2
    assert "helm/values.yaml: not found" in refused.stderr


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("REDIS_URL", "redis://ada:secret@127.0.0.1:1/0", "redis://127.0.0.1:1/0: "),
        ("MONGO_URL", "mongodb://ada:12#secret@127.0.0.1:1/db", "mongodb://…: "),
    ],
)
def test_real_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, redis_url: str, name: str, url: str, shown: str
) -> None:
    with Up(tmp_path, env={"REDIS_URL": redis_url, name: url}) as running:
        assert running.process.wait(WITHIN) == 3
        running.wait_for_line(f"milepost: {name}: nothing usable at {shown}")
        assert "secret" not in running.output
        assert "12" not in running.output.replace("127.0.0.1", "")


def test_error_of_a_function_that_cannot_start_is_shown(tmp_path: Path, redis_url: str, mongo_url: str) -> None:
    project = copy_of_the_project(tmp_path)
    (project / "functions" / "distance" / "main.py").write_text("raise RuntimeError('broken on purpose')\n")
    env = {"REDIS_URL": redis_url, "MONGO_URL": mongo_url}
    with Up(tmp_path / "data", "--project", str(project), env=env) as running:
        assert running.process.wait(WITHIN) == 1
        running.wait_for_line("milepost: distance ended with code")
        running.wait_for(lambda: re.search(r"distance +\| RuntimeError: broken on purpose", running.output))


def test_killed_up_leaves_no_process_and_its_data_folder_can_be_used_again(tmp_path: Path, command: Command) -> None:
    data = tmp_path / "a folder"
    project = copy_of_the_project(tmp_path)
    with Up(data) as first:
        first.ready()
        assert command("publish", "user:email", "nobody@example.org", "--id", "kept", "--data", str(data)).code == 0
        first.wait_for(lambda: "kept" in command("dead", "list", "--data", str(data)).stdout, what="a dead letter")
        pids = first.pids
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with Up(data, "--reload", "--project", str(project)) as second:
        wait_for(lambda: not any(map(is_alive, pids.values())), what="every component gone with `up`")
        second.ready()
        assert "kept" in command("dead", "list", "--data", str(data)).stdout
        check_reload(second, project, command)
        pids = second.pids
        assert second.end(signal.SIGINT) == 0
        assert not any(map(is_alive, pids.values()))
        assert not (data / "stack.json").exists()
        check_order_of_the_end(second)


def check_reload(running: Up, project: Path, command: Command) -> None:
    before = running.pids
    source = project / "functions" / "distance" / "main.py"
    rejecting = source.read_text().replace("    return ", '    raise Reject("too far")\n    return ')
    assert "Reject" in rejecting
    source.write_text(rejecting.replace("import stage", "import Reject, stage"))
    running.wait_for_line("sources changed: restarting distance")
    running.wait_for(lambda: running.pids.get("distance") not in {None, before["distance"]}, what="another distance")
    sent = command("send", "ada@example.org", "0", "0", "--data", str(running.data))
    assert sent.code == 4
    assert "stage distance gave it up: " in sent.stderr
    assert "too far" in sent.stderr
    assert {name for name, pid in running.pids.items() if pid != before[name]} == {"distance"}


def check_order_of_the_end(ended: Up) -> None:
    stopping = next(n for n, line in enumerate(ended.lines) if re.fullmatch(r"milepost +\| stopping", line))
    last = {line.partition(" ")[0]: number for number, line in enumerate(ended.lines) if number > stopping}
    assert last["gateway"] < last["bridge"] < last["redis"]
    assert not any("did not end within" in line for line in ended.lines)


def test_reader_that_leaves_after_ready_does_not_change_the_end(tmp_path: Path, redis_url: str, mongo_url: str) -> None:
    """As `milepost up | sed /^ready/q` does; the line `stopping` then has no reader."""
    command = [*MILEPOST, "up", "--data", str(tmp_path), "--port", "0"]
    env = environment(REDIS_URL=redis_url, MONGO_URL=mongo_url)
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout
        while not up.stdout.readline().startswith("ready "):
            assert up.poll() is None
        up.send_signal(signal.SIGSTOP)
        up.stdout.close()
        up.send_signal(signal.SIGINT)
        up.send_signal(signal.SIGCONT)
        assert up.wait(WITHIN) == 0


def test_real_servers_replace_the_embedded_ones(tmp_path: Path, mongo_url: str, command: Command) -> None:
    data = tmp_path / "data"
    with Valkey(tmp_path) as valkey, Up(data, env={"REDIS_URL": valkey.url, "MONGO_URL": mongo_url}) as running:
        running.ready()
        assert running.stack["redis"] == valkey.url
        assert running.stack["mongo"] == mongo_url
        assert running.pids.keys() == set(COMPONENTS) - {"redis", "mongo"}
        assert command("send", "ada@example.org", "0", "0", "--data", str(data)).code == 0
        check_second_ctrl_c(running)
        assert valkey.alive
        assert not (data / "redis").exists()


def check_second_ctrl_c(running: Up) -> None:
    pids = running.pids
    os.kill(pids["gateway"], signal.SIGSTOP)  # it will not end when it is asked to

    def insisted() -> bool:
        if is_alive(pids["gateway"]):
            running.process.send_signal(signal.SIGINT)
        return not is_alive(pids["gateway"])

    wait_for(insisted, WITHIN, "the gateway killed")
    assert running.process.wait(WITHIN) == 130
    wait_for(lambda: not any(map(is_alive, pids.values())), what="every component gone")


def copy_of_the_project(folder: Path) -> Path:
    project = folder / "project"
    for part in ("functions", "gateway", "helm"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    return project
