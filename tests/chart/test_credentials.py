"""Passwords: Helm makes them once in a cluster and keeps them. A rendering without a cluster makes none."""

from base64 import b64decode, b64encode
from typing import Any

import pytest
from helm_python import HelmError

from tests.chart.cluster import Cluster, install
from tests.chart.rendering import NAMESPACE, SECRET, Object, of_kind, only, pod_specs, read, render

OWN = "milepost-credentials"
PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{OWN}"


def passwords(secret: Object) -> dict[str, str]:
    return {key: b64decode(value).decode() for key, value in secret["data"].items()}


def test_an_install_makes_passwords_that_can_stand_in_a_url(kubernetes: Cluster) -> None:
    secret = only(install(kubernetes), "Secret")
    made = passwords(secret)
    assert set(made) == {"redis-password", "mongo-password"}
    assert all(len(password) >= 32 and password.isalnum() for password in made.values())
    assert len(set(made.values())) == 2
    assert passwords(only(install(kubernetes), "Secret")) != made, "nothing of it is fixed"


def test_upgrade_keeps_the_passwords(kubernetes: Cluster) -> None:
    secret = kubernetes.objects[PATH] = only(install(kubernetes), "Secret")
    assert passwords(only(install(kubernetes), "Secret")) == passwords(secret)


def test_upgrade_makes_only_the_missing_password(kubernetes: Cluster) -> None:
    secret = only(install(kubernetes), "Secret")
    kubernetes.objects[PATH] = {**secret, "data": {"redis-password": b64encode(b"hush").decode()}}
    made = passwords(only(install(kubernetes), "Secret"))
    assert made["redis-password"] == "hush"
    assert len(made["mongo-password"]) == 40


def test_they_outlive_the_release_as_the_volumes_do(kubernetes: Cluster) -> None:
    assert only(install(kubernetes), "Secret")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_rendering_without_a_cluster_fails_and_names_the_command() -> None:
    with pytest.raises(HelmError) as refusal:
        render()
    told = str(refusal.value)
    assert "kubectl -n milepost create secret generic milepost" in told
    assert "--from-literal=redis-password=$(openssl rand -hex 24)" in told
    assert "--from-literal=mongo-password=$(openssl rand -hex 24)" in told
    assert "--set existingSecret=milepost" in told


def test_chart_asks_only_for_the_missing_password() -> None:
    with pytest.raises(HelmError) as refusal:
        render({"mongo": {"url": "mongodb://m/db"}})
    assert "redis-password" in str(refusal.value)
    assert "mongo-password" not in str(refusal.value)


@pytest.mark.parametrize("layers", [(SECRET,), ("values-dev.yaml", SECRET), ("values-prod.yaml",)], ids=str)
def test_with_a_secret_of_yours_no_password_is_in_it_and_two_renderings_are_one(layers: tuple[Any, ...]) -> None:
    objects = render(*layers)
    assert of_kind(objects, "Secret") == []
    assert objects == render(*layers)


def test_outside_urls_are_kept_in_a_secret_and_nowhere_else() -> None:
    urls = {"redis-url": "rediss://:hush@r:1", "mongo-url": "mongodb://u:hush@a,b/db?replicaSet=rs"}
    objects = render({"redis": {"url": urls["redis-url"]}, "mongo": {"url": urls["mongo-url"]}})
    assert passwords(only(objects, "Secret")) == urls
    assert "hush" not in str([found for found in objects if found["kind"] != "Secret"])
    assert of_kind(objects, "StatefulSet") == []


def test_pods_that_read_a_url_are_replaced_when_it_changes() -> None:
    def sums(url: str) -> dict[str, Any]:
        return {
            f"{found['kind']}/{found['metadata']['name']}": found["spec"]["template"]["metadata"].get("annotations")
            for found in render(SECRET, {"redis": {"url": url}, "mongo": {"url": "mongodb://m/db"}})
            if "template" in found.get("spec", {})
        }

    before, after = sums("redis://a"), sums("redis://b")
    changed = {name for name in before if before[name] != after[name]}
    assert {"Deployment/milepost-bridge", "Deployment/milepost-gateway"} <= changed
    assert "Service/milepost-distance" not in changed


def test_secrets_reach_containers_by_reference_only() -> None:
    objects = render(SECRET, {"stages": {"email": {"secretEnv": {"SMTP_URL": {"name": "smtp", "key": "url"}}}}})
    variables = {
        (name, variable["name"]): variable
        for name, spec in pod_specs(objects).items()
        for found in spec["containers"]
        for variable in found.get("env", [])
    }
    references = {
        key[1]: variable["valueFrom"]["secretKeyRef"] for key, variable in variables.items() if "valueFrom" in variable
    }
    assert references == {
        "REDIS_PASSWORD": {"name": "milepost", "key": "redis-password"},
        "REDISCLI_AUTH": {"name": "milepost", "key": "redis-password"},
        "MONGO_PASSWORD": {"name": "milepost", "key": "mongo-password"},
        "MONGO_INITDB_ROOT_PASSWORD": {"name": "milepost", "key": "mongo-password"},
        "SMTP_URL": {"name": "smtp", "key": "url"},
    }
    assert ("Service/milepost-distance", "MONGO_URL") not in variables


def test_prod_values_name_the_keys_that_the_chart_reads() -> None:
    """Users paste the command in the comment at the top of the file."""
    references = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for spec in pod_specs(render("values-prod.yaml")).values()
        for found in spec["containers"]
        for variable in found.get("env", [])
        if "valueFrom" in variable
    }
    assert references == {"redis-url", "mongo-url"}
    assert read("values-prod.yaml")["existingSecret"] == "milepost"
