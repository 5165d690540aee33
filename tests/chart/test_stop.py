"""The time that Kubernetes gives a bridge to stop, before it kills it."""

import pytest
from helm_python import HelmError

from tests.chart.rendering import SECRET, merged, only, render


@pytest.mark.parametrize(
    ("grace", "seconds"), [("PT5M", 456), ("PT1H0.2S", 5407), ("PT16S", 30), ("PT17S", 32), ("PT4S", 30)]
)
def test_pod_of_a_bridge_has_the_time_for_its_grace(grace: str, seconds: int) -> None:
    objects = render(merged(SECRET, {"bridge": {"env": {"GRACE": grace}}}))
    spec = only(objects, "Deployment", "milepost-bridge")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == seconds


def test_pod_of_a_bridge_with_the_grace_of_milepost_has_the_time_of_kubernetes() -> None:
    spec = only(render(SECRET), "Deployment", "milepost-bridge")["spec"]["template"]["spec"]
    assert "terminationGracePeriodSeconds" not in spec, "30 s: more than the 11.5 s that its stop may take"


@pytest.mark.parametrize("grace", ["P1D", "00:05:00", "300"])
def test_grace_that_the_chart_cannot_read_is_refused_with_its_value(grace: str) -> None:
    """The bridge would take it, and Kubernetes would kill it after 30 s."""
    with pytest.raises(HelmError) as refusal:
        render(merged(SECRET, {"bridge": {"env": {"GRACE": grace}}}))
    assert "/bridge/env/GRACE" in str(refusal.value)
    assert grace in str(refusal.value)
