"""`reload: true`: the command that the chart then renders, on the files of the image."""

from pathlib import Path

import pytest

from tests.chart.rendering import SECRET, container, environment, only, render
from tests.images.component import Component
from tests.servers import wait_for


class Reloading(Component):
    """A component that runs the command of the dev values instead of the image's."""

    def __init__(self, folder: Path, target: str, redis_url: str) -> None:
        found = container(only(render("values-dev.yaml", SECRET), "Deployment", f"milepost-{target}"))
        env = environment(found, {"redis-password": "hush"}) | {"REDIS_URL": redis_url}
        super().__init__(folder, target, env=env)
        self.image.command = found["command"]

    def sync(self, path: str, text: str) -> None:
        """Replace a file as Skaffold's `tar` does: a new file takes the name."""
        new = self.folder / "synced"
        new.write_text(text)
        new.replace(self.app / path)


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize(
    ("target", "path"), [("gateway", "gateway/__main__.py"), ("bridge", "milepost/journal/__init__.py")], ids=str
)
def test_synced_code_runs_at_once_and_after_a_syntax_error_at_the_next_change(
    target: str, path: str, tmp_path: Path, redis_url: str
) -> None:
    """If the process ended at an error, the container would start again with the image's files."""
    with Reloading(tmp_path, target, redis_url) as component:
        source = (component.app / path).read_text()
        component.sync(path, "this is no Python")
        wait_for(lambda: "SyntaxError" in component.log)
        assert f"reload: {path} changed" in component.log
        assert component.alive
        component.sync(path, f'print("here I am")\n{source}')
        wait_for(lambda: "here I am" in component.log)
        wait_for(component.is_ready, what=component.log)
        assert component.stop() == 0


def test_reloading_pods_have_no_liveness_probe() -> None:
    for layers, expected in [(("values-dev.yaml", SECRET), False), ((SECRET,), True)]:
        for name in ("gateway", "bridge"):
            found = container(only(render(*layers), "Deployment", f"milepost-{name}"))
            assert ("livenessProbe" in found) is expected
            assert ("command" in found) is not expected
