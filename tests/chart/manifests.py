"""knative/manifests/: the chart rendered plain, one file a template.

python -m tests.chart.manifests      makes it anew
"""

from tests.chart.rendering import SECRET, render_files
from tests.servers import ROOT

FOLDER = ROOT / "knative" / "manifests"
WRITTEN = {"kustomization.yaml", "namespace.yaml"}
"""By hand."""

HEADER = "# Rendered from helm/ by `make manifests`; do not edit.\n"


def rendered() -> dict[str, str]:
    """File name -> text, without what only Helm runs (tests, notes) and templates that came out empty."""
    files = {}
    for path, text in render_files(SECRET).items():
        if "/" in path or path == "NOTES.txt":
            continue
        lines = [line.rstrip() for line in text.splitlines()]
        body = "\n".join(line for line in lines if line).removeprefix("---\n")
        if body:
            files[path] = f"{HEADER}{body}\n"
    return files


def write() -> None:
    files = rendered()
    for old in FOLDER.glob("*.yaml"):
        if old.name not in files and old.name not in WRITTEN:
            old.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write()
