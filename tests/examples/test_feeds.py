"""examples/feeds: another pipeline on the same package and chart, delivered to a receiver that is not ours."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from milepost.cli.local import data_folder
from tests.chart.rendering import SECRET, functions, merged, only, read, render
from tests.chart.test_security import arrows
from tests.cli.running import WITHIN, Up
from tests.examples.example import EXAMPLES, Receiver, check_own_tests, copied, milepost, receiving
from tests.servers import ANSWER_WITHIN, HOST, wait_for

FEEDS = EXAMPLES / "feeds"
NEWS = (FEEDS / "samples" / "news.xml").read_text()
TOKEN = "Bearer of-your-own"


def test_its_own_tests_pass_in_its_own_folder() -> None:
    check_own_tests(FEEDS)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(FEEDS, tmp_path / "printed") as receiver:
        yield receiver


@pytest.fixture
def project(tmp_path: Path, receiver: Receiver) -> Path:
    """A copy whose receiver is the test's, at a port of its own."""
    return copied(FEEDS, tmp_path / "feeds", receiver)


def test_milepost_up_runs_it(project: Path, receiver: Receiver, tmp_path: Path) -> None:
    data = tmp_path / "data"
    env = {"HEADER_WEBHOOK_AUTHORIZATION": TOKEN, "PYTHONPATH": ""}
    with Up(data, "--project", str(project), env=env) as up:
        up.ready()
        stack = up.stack
        assert list(stack) == ["bridge", "redis", "functions", "pids"]
        assert stack["pids"].keys() == {"redis", "summarise", "digest", "keywords", "bridge"}
        assert f"ready {stack['bridge']}" in up.lines

        first = milepost("publish", "feed", NEWS, "--data", str(data)).stdout.strip()
        wait_for(lambda: f"digest {first}\n\n# Harbour News" in receiver.printed, what=receiver.printed)

        wait_for(lambda: shown_in_the_readme() in receiver.printed, what="the digest, whole")

        event = {"specversion": "1.0", "id": "by-http", "source": "/reader", "type": "feed", "data": NEWS}
        structured = {"content-type": "application/cloudevents+json"}
        assert httpx.post(stack["bridge"], json=event, headers=structured, timeout=ANSWER_WITHIN).status_code == 202
        wait_for(lambda: "digest by-http\n" in receiver.printed, what=receiver.printed)

        milepost("publish", "feed", "<rss/>", "--id", "bad", "--data", str(data))
        wait_for(lambda: "there is no channel" in milepost("dead", "list", "--data", str(data)).stdout, what="a letter")

        refused = milepost("send", "ada@example.org", "0", "0", "--data", str(data))
        assert refused.returncode == 2
        assert "this pipeline has no gateway" in refused.stderr
        assert not [path.name for path in data.iterdir() if path.name not in {"redis", "up", "lock", data_folder.STACK}]
        assert up.end() == 0
        assert "of-your-own" not in up.output


def shown_in_the_readme() -> str:
    """The lines that the receiver prints below the id."""
    _, _, below = (FEEDS / "README.md").read_text().partition("    # Harbour News\n")
    return textwrap.dedent(f"    # Harbour News\n{below.partition('    …')[0]}")


def test_missing_header_variable_is_named_before_anything_starts(project: Path, tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--project", str(project)) as up:
        assert up.process.wait(WITHIN) == 2
        up.wait_for_line("HEADER_WEBHOOK_AUTHORIZATION: not set; stage webhook sends it as its header Authorization")


def test_its_values_and_the_chart_make_its_own_pipeline_and_nothing_else() -> None:
    values = yaml.safe_load((FEEDS / "helm" / "values.yaml").read_text())
    others = {"stages": dict.fromkeys(read("values.yaml")["stages"])}  # --set stages.NAME=null
    objects = render(merged(SECRET, others, values))
    assert set(functions(objects)) == {"summarise", "digest", "keywords"}
    components = {found["metadata"]["labels"]["app.kubernetes.io/component"] for found in objects}
    assert components == {"summarise", "digest", "keywords", "bridge", "redis"}
    env = only(objects, "Deployment", "milepost-bridge")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {
        "name": "HEADER_WEBHOOK_AUTHORIZATION",
        "valueFrom": {"secretKeyRef": {"name": "webhook", "key": "authorization"}},
    } in env
    assert ("bridge", "redis") in arrows(objects)


def test_example_names_nothing_of_the_other_pipeline() -> None:
    words = re.compile("raw_input|calculated_distance|velocity|email", re.IGNORECASE)
    texts = {
        path: path.read_text()
        for path in FEEDS.rglob("*")
        if path.suffix in {".py", ".toml"} or path.name == "values.yaml"
    }
    assert len(texts) > 8
    assert not {str(path): words.findall(text) for path, text in texts.items() if words.search(text)}
    assert HOST in texts[FEEDS / "helm" / "values.yaml"]
