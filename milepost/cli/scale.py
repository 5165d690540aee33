"""Count the processes of each stage: those of a local `milepost up`, or pods in a cluster, by kubectl."""

import asyncio
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from milepost.cli.local import data_folder
from milepost.cli.text import plain, say
from milepost.journal import StageState

ANSWER_WITHIN = 5.0
"""Seconds to wait for kubectl."""

LABEL = "serving.knative.dev/service"
"""The label on the pods of a Knative Service."""

_IN_CLUSTER = re.compile(r"(?P<service>[^.]+)\.(?P<namespace>[^.]+)\.svc(\..+)?")


async def scales(stages: Iterable[StageState], data: Path) -> dict[str, int]:
    """Return stage → processes, for stages where that is known. `data`: the data folder of a `milepost up`."""
    stages = list(stages)
    found = _of_stack(stages, data_folder.read_stack(data))
    services: dict[str, dict[str, str]] = {}
    for stage in stages:
        host = _IN_CLUSTER.fullmatch(urlsplit(stage.url).hostname or "")
        if host:
            services.setdefault(host["namespace"], {})[stage.name] = host["service"]
    if services and (kubectl := shutil.which("kubectl")):
        for namespace, of in services.items():
            pods = await _pods(kubectl, namespace)
            found |= {} if pods is None else {stage: pods[service] for stage, service in of.items()}
    return found


def _of_stack(stages: Iterable[StageState], stack: Mapping[str, Any]) -> dict[str, int]:
    urls, pids = stack.get("functions", {}), stack.get("pids", {})
    local = [stage.name for stage in stages if urls.get(stage.name) == stage.url]
    return {name: int(name in pids and _is_alive(pids[name])) for name in local}


def _is_alive(pid: int) -> bool:
    """Whether a process of this user has this id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def _pods(kubectl: str, namespace: str) -> Counter[str] | None:
    """Return Knative Service → running pods in kubectl's current context. If kubectl fails, say why and return None."""
    query = urlencode({"labelSelector": LABEL, "fieldSelector": "status.phase=Running"})
    process = await asyncio.create_subprocess_exec(
        *(kubectl, "get", "--raw", f"/api/v1/namespaces/{namespace}/pods?{query}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), ANSWER_WITHIN)
    except TimeoutError:
        process.kill()
        await process.wait()
        out, err = b"", b"no answer in time"
    if process.returncode != 0:
        why = err.decode(errors="replace").strip().rpartition("\n")[2]
        say(f"scale in namespace {plain(namespace)} unknown: kubectl: {plain(why)}")
        return None
    metadata = [pod["metadata"] for pod in json.loads(out)["items"]]
    return Counter(pod["labels"][LABEL] for pod in metadata if "deletionTimestamp" not in pod)
