"""knative/install.sh, run with a kubectl, a kind and a curl of the test that record what they are asked."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers import ROOT

KNATIVE = ROOT / "knative"
INSTALL = KNATIVE / "install.sh"
DIGESTS = dict(reversed(line.split()) for line in (KNATIVE / "checksums.txt").read_text().splitlines())
"""`owner/repository/release/file` -> SHA-256."""


class Installer:
    """A copy of knative/ with digests of the files that the test's curl hands out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "knative"
        shutil.copytree(KNATIVE, self.folder)
        self.calls = folder / "calls"
        self.bodies = folder / "bodies"
        self.bin = folder / "bin"
        self.bin.mkdir()
        lines = []
        for name in DIGESTS:
            body = self.body(name)
            body.parent.mkdir(parents=True, exist_ok=True)
            body.write_text(f"# {name}\n")
            lines.append(f"{hashlib.sha256(body.read_bytes()).hexdigest()}  {name}\n")
        (self.folder / "checksums.txt").write_text("".join(lines))
        self._program("kubectl", 'case $* in *--raw*) echo \'{"minor": "36"}\' ;; esac')
        self._program("kind", "case $1 in get) echo other ;; esac")
        self._program("sleep", "")
        copy = f"cp {self.bodies}/$(echo $url | sed 's,https://github.com/,,; s,/releases/download/,/,') $out"
        self._program("curl", f'for a; do [ "$b" = --output ] && out=$a; b=$a; url=$a; done; {copy}')

    def _program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n{script}\n')
        path.chmod(0o755)

    def body(self, name: str) -> Path:
        return self.bodies / name

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.folder / "install.sh", *arguments], env=env, capture_output=True, text=True, check=False
        )

    @property
    def done(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def at(self, pattern: str) -> int:
        """Return the position of the first call that matches the pattern."""
        return next(index for index, call in enumerate(self.done) if re.search(pattern, call))

    def applied(self) -> list[str]:
        return [found[1] for call in self.done if (found := re.search(r"apply -f \S*/(\S+)$", call))]


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


SERVING = ["serving-crds.yaml", "serving-core.yaml", "kourier.yaml"]
EVENTING = ["eventing-crds.yaml", "eventing-core.yaml", "in-memory-channel.yaml", "mt-channel-broker.yaml"]


def test_direct_mode_needs_no_eventing(installer: Installer) -> None:
    assert installer.run("minikube").returncode == 0
    assert installer.applied() == SERVING
    assert "eventing" not in "".join(installer.done)


def test_kouriers_class_is_set_before_anything_waits_for_eventing(installer: Installer) -> None:
    found = installer.run("kind", "--with-eventing")
    assert found.returncode == 0, found.stderr
    assert installer.applied() == SERVING + EVENTING
    ingress_class = installer.at("patch configmap/config-network .*kourier.ingress.networking.knative.dev")
    assert installer.at("kourier.yaml") < ingress_class < installer.at("eventing")
    assert installer.at("wait deployment/webhook") < ingress_class, "a webhook of Serving checks the patch"
    assert "kind create cluster" in "\n".join(installer.done)


def test_serving_is_whole_when_eventing_fails(installer: Installer) -> None:
    installer.body("knative/eventing/knative-v1.22.2/eventing-crds.yaml").unlink()
    assert installer.run("minikube", "--with-eventing").returncode != 0
    done = "\n".join(installer.done)
    assert "config-network" in done
    assert "config-domain" in done
    assert "-n kourier-system wait deployment --all" in done


def test_a_download_with_another_digest_is_not_applied(installer: Installer) -> None:
    name = "knative/serving/knative-v1.23.0/serving-core.yaml"
    installer.body(name).write_text("something else")
    found = installer.run("minikube")
    assert found.returncode == 1
    assert f"{name.replace('/knative-v', '/releases/download/knative-v')} has the SHA-256" in found.stderr
    assert installer.applied() == ["serving-crds.yaml"]


def test_a_release_without_a_digest_is_not_applied(installer: Installer) -> None:
    script = installer.folder / "install.sh"
    script.write_text(script.read_text().replace("SERVING=knative-v1.23.0", "SERVING=knative-v1.24.0"))
    found = installer.run("minikube")
    assert found.returncode == 1
    assert "no digest of knative/serving/knative-v1.24.0/serving-crds.yaml" in found.stderr
    assert installer.applied() == []


@pytest.mark.parametrize("arguments", [(), ("--without",), ("kind", "minikube"), ("--with-eventing",)], ids=str)
def test_wrong_arguments_are_answered_with_the_usage(arguments: tuple[str, ...], installer: Installer) -> None:
    found = installer.run(*arguments)
    assert found.returncode == 2
    assert "knative/install.sh kind" in found.stderr
    assert "--with-eventing" in found.stderr
    assert installer.done == []


def test_each_file_of_the_script_has_a_digest_and_no_other() -> None:
    script = INSTALL.read_text()
    versions = dict(re.findall(r"^(SERVING|KOURIER|EVENTING)=(knative-v\d+\.\d+\.\d+)$", script, re.MULTILINE))
    repositories = {
        "knative/serving": ("SERVING", SERVING[:2]),
        "knative-extensions/net-kourier": ("KOURIER", SERVING[2:]),
        "knative/eventing": ("EVENTING", EVENTING),
    }
    wanted = {
        f"{repository}/{versions[version]}/{file}"
        for repository, (version, files) in repositories.items()
        for file in files
    }
    assert set(DIGESTS) == wanted
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in DIGESTS.values())
    assert len(set(DIGESTS.values())) == len(DIGESTS)
    assert "latest" not in script


def test_kourier_is_reached_at_the_port_that_kind_maps() -> None:
    (node,) = yaml.safe_load((KNATIVE / "kind.yaml").read_text())["nodes"]
    (mapping,) = node["extraPortMappings"]
    assert mapping["listenAddress"] == "127.0.0.1"
    script = INSTALL.read_text()
    assert f'"nodePort": {mapping["containerPort"]}' in script
    assert f"127.0.0.1:{mapping['hostPort']}" in script
