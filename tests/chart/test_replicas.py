"""Replicas that an operator or an autoscaler has set: an upgrade repeats them, because Helm 4 may not change them."""

from typing import Any

import pytest
from helm_python import HelmError

from tests.chart.cluster import Cluster, install, notes
from tests.chart.rendering import NAMESPACE, SECRET, Object, merged, of_kind, only, render

HELM = {"manager": "helm", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}}}}
SCALE = {"manager": "kubectl", "operation": "Update", "subresource": "scale"}
AUTOSCALER = {"manager": "kube-controller-manager", "operation": "Update", "subresource": "scale"}
EDIT = {"manager": "kubectl-edit", "operation": "Update"}
REPLICAS = {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
STATUS = {"manager": "kube-controller-manager", "subresource": "status", "fieldsV1": {"f:status": {"f:replicas": {}}}}
IMAGE = {"manager": "kubectl-set", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}}


def deploy(kubernetes: Cluster, component: str, replicas: int, *managers: Object) -> None:
    name = f"milepost-{component}"
    kubernetes.objects[f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "managedFields": list(managers)},
        "spec": {"replicas": replicas},
    }


def replicas(objects: list[Object], component: str) -> Any:
    return only(objects, "Deployment", f"milepost-{component}")["spec"].get("replicas")


@pytest.mark.parametrize("component", ["bridge", "gateway"])
@pytest.mark.parametrize("owner", [SCALE, AUTOSCALER, EDIT], ids=["kubectl scale", "autoscaler", "kubectl edit"])
@pytest.mark.parametrize("live", [0, 5])
def test_upgrade_repeats_the_replicas_that_another_manager_set(
    component: str, owner: Object, live: int, kubernetes: Cluster
) -> None:
    deploy(kubernetes, component, live, HELM, {**owner, **REPLICAS}, STATUS)
    assert replicas(install(kubernetes), component) == live
    assert f"The {component} keeps {live} replicas, not the 2 of {component}.replicas" in notes(kubernetes)


@pytest.mark.parametrize("managers", [(HELM,), (HELM, STATUS, IMAGE), ({**HELM, "manager": "helm4"},), ()], ids=str)
def test_upgrade_applies_the_charts_replicas_where_helm_alone_owns_them(
    managers: tuple[Object, ...], kubernetes: Cluster
) -> None:
    deploy(kubernetes, "bridge", 2, *managers)
    assert replicas(install(kubernetes, bridge={"replicas": 3}), "bridge") == 3
    assert "keeps" not in notes(kubernetes, bridge={"replicas": 3})


def test_first_install_has_the_charts_replicas(kubernetes: Cluster) -> None:
    assert replicas(install(kubernetes), "bridge") == replicas(install(kubernetes), "gateway") == 2


@pytest.mark.parametrize("component", ["bridge", "gateway"])
def test_replicas_null_leaves_the_field_out(component: str, kubernetes: Cluster) -> None:
    without = {component: {"replicas": None}}
    assert replicas(render(merged(SECRET, without)), component) is None
    deploy(kubernetes, component, 5, HELM, {**AUTOSCALER, **REPLICAS})
    assert replicas(install(kubernetes, **without), component) is None


@pytest.mark.parametrize("wrong", ["2", 0, -1, 1.5, True])
def test_replicas_are_a_number_or_null(wrong: Any) -> None:
    with pytest.raises(HelmError, match="replicas"):
        render(merged(SECRET, {"bridge": {"replicas": wrong}}))


def test_the_servers_leave_the_field_out_so_that_an_operator_can_stop_them() -> None:
    """Kubernetes defaults to one replica. A restore begins with `kubectl scale --replicas=0`."""
    for found in of_kind(render(SECRET), "StatefulSet"):
        assert "replicas" not in found["spec"]


def test_notes_tell_of_mails_only_where_a_stage_sends_them(kubernetes: Cluster) -> None:
    assert "component=email" in notes(kubernetes)
    assert "component=email" not in notes(kubernetes, stages={"email": None})
