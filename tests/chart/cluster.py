"""A Kubernetes API server with the endpoints that Helm's `lookup` calls."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml
from helm_python import Config

from tests.chart.rendering import NAME, NAMESPACE, Object, chart

GROUPS = {"v1": {"namespaces": "Namespace", "secrets": "Secret"}, "apps/v1": {"deployments": "Deployment"}}
"""API group and version -> plural name -> kind, of the objects that the chart looks up."""


class Cluster:
    """Its objects by path: `cluster.objects["/api/v1/namespaces/milepost/secrets/x"] = {...}`."""

    def __init__(self, port: int) -> None:
        self.objects: dict[str, Object] = {
            "/api/v1/namespaces/kube-system": {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "kube-system"},
            }
        }
        self.url = f"http://127.0.0.1:{port}"

    @property
    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "", "namespace": "milepost"}}],
                "current-context": "fake",
            }
        )

    def answer(self, path: str) -> tuple[int, Object]:
        if path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            version = {"groupVersion": "apps/v1", "version": "v1"}
            apps = {"name": "apps", "versions": [version], "preferredVersion": version}
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [apps]}
        if (group := path.removeprefix("/apis/").removeprefix("/api/")) in GROUPS:
            resources = [
                {"name": plural, "kind": kind, "namespaced": kind != "Namespace", "verbs": ["get"]}
                for plural, kind in GROUPS[group].items()
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": group, "resources": resources}
        if path in self.objects:
            return 200, self.objects[path]
        return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def cluster() -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = found.answer(self.path.partition("?")[0])
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Cluster(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def install(kubernetes: Cluster, **values: Any) -> list[Object]:
    """Return the objects that Helm renders for this cluster, at an install and at an upgrade alike."""
    return [
        document
        for path, text in _render(kubernetes, values).items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def notes(kubernetes: Cluster, **values: Any) -> str:
    """Return the text that Helm prints after the same."""
    (text,) = [text for path, text in _render(kubernetes, values).items() if path.endswith("NOTES.txt")]
    return text


def _render(kubernetes: Cluster, values: dict[str, Any]) -> dict[str, str]:
    with Config(kubeconfig_content=kubernetes.kubeconfig, namespace=NAMESPACE) as config:
        rendered: dict[str, str] = config.render(chart(), values, name=NAME, namespace=NAMESPACE)
    return rendered
