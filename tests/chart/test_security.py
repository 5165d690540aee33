"""Pod security "restricted", no service account token, and network policies that follow the design."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import SECRET, Object, merged, of_kind, only, pod_specs, render
from tests.servers import ROOT, STAGES

BROKER = merged(SECRET, {"delivery": "broker"})


@pytest.mark.parametrize(
    "layers",
    [(SECRET,), (BROKER,), ("values-dev.yaml", SECRET), ("values-prod.yaml",), (SECRET, {"upgrade": {"check": True}})],
    ids=str,
)
def test_every_pod_is_restricted(layers: tuple[Any, ...]) -> None:
    specs = pod_specs(render(*layers))
    assert len(specs) >= 6
    for name, spec in specs.items():
        for found in spec["containers"]:
            security = found["securityContext"]
            assert security["runAsNonRoot"] is True, name
            assert security["runAsUser"] > 0, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
            if "values-dev.yaml" not in layers:
                assert security["readOnlyRootFilesystem"] is True, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) <= {"name", "emptyDir"} for volume in spec.get("volumes", []))


def test_only_pods_with_synced_files_have_a_writable_root_in_a_dev_cluster() -> None:
    for name, spec in pod_specs(render("values-dev.yaml", SECRET)).items():
        (found,) = spec["containers"]
        kept = name in {"StatefulSet/milepost-redis", "StatefulSet/milepost-mongo", "Pod/milepost-test"}
        assert found["securityContext"]["readOnlyRootFilesystem"] is kept, name


def test_each_component_has_an_account_of_its_own_without_a_token() -> None:
    objects = render(SECRET)
    accounts = {found["metadata"]["name"]: found for found in of_kind(objects, "ServiceAccount")}
    assert all(found["automountServiceAccountToken"] is False for found in accounts.values())
    used = {name: spec["serviceAccountName"] for name, spec in pod_specs(objects).items()}
    assert all(spec["automountServiceAccountToken"] is False for spec in pod_specs(objects).values())
    assert set(used.values()) == set(accounts)
    del used["Pod/milepost-test"]  # it stands where the gateway's callers stand
    assert len(set(used.values())) == len(used)
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & {found["kind"] for found in objects}


# Network policies


def arrows(objects: list[Object]) -> set[tuple[str, str]]:
    """Return (source, component) of all ingress rules; a namespace is `ns:name`, everyone `*`."""
    return {
        (source, component(policy["spec"]["podSelector"]))
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"]["ingress"]
        for source in peers(rule.get("from"))
    }


def component(selector: Object) -> str:
    labels = selector["matchLabels"]
    return str(labels.get("app.kubernetes.io/component") or "+".join(f"{key}={labels[key]}" for key in sorted(labels)))


def peers(found: list[Object] | None) -> Iterator[str]:
    if found is None:
        yield "*"
        return
    for peer in found:
        if "namespaceSelector" in peer:
            yield f"ns:{peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}"
        else:
            yield component(peer["podSelector"])


def outward(objects: list[Object], name: str) -> set[tuple[str, int]]:
    """Return the peers and ports of a component's egress rules; port 0 is any."""
    policy = only(objects, "NetworkPolicy", f"milepost-{name}")
    return {
        (peer, port["port"])
        for rule in policy["spec"]["egress"]
        for peer in peers(rule.get("to"))
        for port in rule.get("ports", [{"port": 0}])
    }


KNATIVE = {(f"ns:{namespace}", name) for namespace in ("kourier-system", "knative-serving") for name in STAGES}
INSIDE = {
    ("*", "gateway"),
    ("milepost/publishes=true", "bridge"),
    *(("bridge", "redis"), ("gateway", "redis"), ("store", "mongo"), ("email", "mongo")),
}


def test_only_the_arrows_of_the_design_pass() -> None:
    assert arrows(render(SECRET)) == INSIDE | KNATIVE


def test_the_check_before_an_upgrade_reaches_redis_and_the_gateway_while_it_runs() -> None:
    objects = render(merged(SECRET, {"upgrade": {"check": True}}))
    assert arrows(objects) == INSIDE | KNATIVE | {("upgrade-check", "redis")}
    assert outward(objects, "upgrade-check") == {("*", 53), ("redis", 6379), ("gateway", 8080)}
    for found in objects:
        if "upgrade-check" in found["metadata"]["name"]:
            assert found["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
            assert (
                found["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
            )


def test_a_broker_may_speak_to_the_bridge_as_well() -> None:
    assert arrows(render(BROKER)) == INSIDE | KNATIVE | {("ns:knative-eventing", "bridge")}


def test_no_component_reaches_further_than_the_design() -> None:
    objects, dns = render(SECRET), ("*", 53)
    assert outward(objects, "gateway") == {dns, ("redis", 6379)}
    assert outward(objects, "bridge") == {dns, ("redis", 6379), ("ns:kourier-system", 0)}
    assert outward(objects, "distance") == {dns}
    assert outward(objects, "store") == {dns, ("mongo", 27017)}
    assert outward(objects, "redis") == outward(objects, "mongo") == set()
    to_wake = ("ns:kourier-system", 0)
    assert outward(render(BROKER), "bridge") == {dns, ("redis", 6379), to_wake, ("ns:knative-eventing", 0)}


def test_outside_servers_are_reached_by_their_port() -> None:
    objects = render("values-prod.yaml", {"redis": {"port": 6380}})
    assert ("*", 6380) in outward(objects, "bridge")
    assert ("*", 27017) in outward(objects, "store")
    assert not {"milepost-redis", "milepost-mongo"} & {found["metadata"]["name"] for found in objects}


def test_stage_may_reach_the_egress_of_its_entry() -> None:
    smtp = {"stages": {"email": {"egress": [{"ports": [{"protocol": "TCP", "port": 587}]}]}}}
    assert ("*", 587) in outward(render(merged(SECRET, smtp)), "email")


def test_every_pod_of_ours_has_a_policy() -> None:
    objects = render(SECRET)
    guarded = {component(found["spec"]["podSelector"]) for found in of_kind(objects, "NetworkPolicy")}
    assert guarded == {"bridge", "gateway", "redis", "mongo", *STAGES}
    assert all(found["spec"]["policyTypes"] == ["Ingress", "Egress"] for found in of_kind(objects, "NetworkPolicy"))


def test_the_policy_of_security_md_lets_the_bridge_alone_call_functions_through_kourier() -> None:
    (_, block, _) = (ROOT / "SECURITY.md").read_text().split("```")
    policy = yaml.safe_load(block.removeprefix("yaml"))
    kubernetes_validate.validate(policy, "1.34", strict=True)
    objects = render(SECRET)
    open_to_all, internal = policy["spec"]["ingress"]
    assert {port["port"] for port in internal["ports"]} == {8081}
    assert 8081 not in {port["port"] for port in open_to_all["ports"]}
    (ours,) = [peer for peer in internal["from"] if "podSelector" in peer]
    labels = only(objects, "Deployment", "milepost-bridge")["spec"]["template"]["metadata"]["labels"]
    assert ours["podSelector"]["matchLabels"].items() <= labels.items()
    for found in of_kind(objects, "Deployment"):
        if found["metadata"]["name"] != "milepost-bridge":
            theirs = found["spec"]["template"]["metadata"]["labels"]
            assert not ours["podSelector"]["matchLabels"].items() <= theirs.items()
    assert policy["metadata"]["namespace"] == "kourier-system"
