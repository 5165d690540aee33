"""Renders the chart into knative/manifests/, one file for each template.

python -m tests.chart.manifests
"""

from tests.chart.rendering import SECRET, render_files
from tests.servers import ROOT

FOLDER = ROOT / "knative" / "manifests"
WRITTEN = {"kustomization.yaml", "namespace.yaml"}
"""Files that are written by hand."""

HEADER = "# Rendered from helm/ by `make manifests`; do not edit.\n"


def rendered() -> dict[str, str]:
    """Return file name -> text, without tests, notes and templates that rendered empty."""
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
