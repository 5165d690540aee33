"""`milepost new`, in a copy of this repository: its files work. test_new_refused.py has the refusals."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from milepost.cli import edit, new
from milepost.cli.stage_templates import StageTemplates
from milepost.errors import ConfigurationError
from tests.cli.copies import OWN_TESTS, copy_of_the_repository, make, run, tree
from tests.cli.running import MILEPOST, Milepost, Up, environment
from tests.servers import ANSWER_WITHIN, ROOT

EVENTS = 20
LONG = "a-stage-with-a-name-of-41-characters-long"
LONG_CHANNEL = "a.channel/with:a-name-of-40-characters.x"


class Grown:
    """A copy with two stages more: one on raw_input, which makes a channel, and one on that, which is the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_of_the_repository(folder)
        self.before = tree(self.folder)
        self.first = make(self.folder, "specimen", "--on", "raw_input", "--emits", "specimen:taken")
        self.between = tree(self.folder)
        self.second = make(self.folder, "specimen-log", "--on", "specimen:taken")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    made = Grown(tmp_path_factory.mktemp("grown") / "project")
    assert made.first.code == made.second.code == 0, made.first.stderr + made.second.stderr
    return made


# The files


def test_new_lists_the_written_files_and_the_next_steps(grown: Grown) -> None:
    said = dict(reversed(line.split()) for line in grown.first.stdout.partition("\nnext:\n")[0].splitlines())
    files = {path: text for path, text in grown.between.items() if text is not None and "__pycache__" not in path.parts}
    changed = {path for path, text in files.items() if grown.before.get(path) != text}
    assert {grown.folder / path for path in said} == changed
    for path, word in said.items():
        assert (word == "changed") == (grown.folder / path in grown.before), path
    assert "functions/specimen/main.py is yours" in grown.first.stdout
    assert "`make test ARGS='-k specimen'`" in grown.first.stdout
    assert "`make run`, and `milepost watch`" in grown.first.stdout
    assert "`make manifests`: knative/manifests is the chart rendered" in grown.first.stdout


def test_new_only_adds_lines_to_existing_files(grown: Grown) -> None:
    for name in ("helm/values.yaml", "skaffold.yaml", "functions/payloads.py"):
        before = Counter((grown.before[grown.folder / name] or b"").decode().splitlines())
        after = Counter((grown.folder / name).read_text().splitlines())
        assert not before - after
    for name in ("pyproject.toml", "Makefile", "Dockerfile"):
        assert (grown.folder / name).read_bytes() == grown.before[grown.folder / name]


def test_new_changes_no_other_service(grown: Grown) -> None:
    kept = ("milepost", "gateway", "functions/distance", "functions/store", "functions/email", "helm/templates")
    for path, text in grown.before.items():
        if text is not None and str(path.relative_to(grown.folder)).startswith(kept):
            assert path.read_bytes() == text


def test_tests_of_the_new_stages_the_chart_and_the_images_pass(grown: Grown) -> None:
    own = ["tests/contract/test_specimen_stage.py", "tests/contract/test_specimen_log_stage.py"]
    chart = ["tests/chart/test_stages.py", "tests/chart/test_skaffold.py", "tests/chart/test_manifests.py"]
    quick = ["-q", "-p", "no:cacheprovider"]
    others = ["tests/images/test_dockerfile.py", "tests/unit/test_stage_values.py", "tests/gateway/test_channels.py"]
    others += ["tests/documents/test_commands.py"]  # each is skipped: it shows the pipeline without them
    run(grown.folder, "tests.chart.manifests")
    # Bridge and gateway are as they were, and for the stage that emits nothing its answer is enough.
    chosen = "not rendered_environment and (not SpecimenLog or answer or hands or table)"
    run(grown.folder, "pytest", *quick, *own, *chart, *others, "-k", chosen)


def test_written_files_pass_the_linters_with_the_longest_names(grown: Grown, tmp_path: Path) -> None:
    assert (len(LONG), len(LONG_CHANNEL)) == (new.LONGEST_NAME, new.LONGEST_CHANNEL)
    long = LONG_CHANNEL.title().translate({ord(mark): None for mark in ".:/-"})
    written = ["functions/specimen/main.py", "functions/specimen-log/main.py", "functions/payloads.py"]
    written += ["tests/contract/test_specimen_stage.py", "tests/contract/test_specimen_log_stage.py"]
    several = {f"{LONG_CHANNEL[:-1]}{digit}": f"{long[:-1]}{digit}Payload" for digit in range(4)}
    for takes, gives in (
        ("Submission", {LONG_CHANNEL: f"{long}Payload"}),
        (f"{long}Payload", {LONG_CHANNEL: "Place"}),
        (f"{long}Payload", {}),
        ("Submission", {"approved": "Approved", "declined": "Declined"}),
        *(("Submission", dict(list(several.items())[:most])) for most in (2, 3, 4)),
    ):
        stage = StageTemplates(LONG, "raw_input", takes, takes_bare=False, gives=gives)
        payload = f"from milepost import Payload\n{''.join(map(stage.payload, gives))}"
        for text in (stage.main(), stage.contract(2), *([payload] if gives else [])):
            path = tmp_path / f"{len(written)}.py"
            path.write_text(text)
            written.append(str(path))
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    run(grown.folder, "ruff", "check", *config, "--ignore", "INP001,S101", *written)
    run(grown.folder, "ruff", "format", "--check", *config, *written)
    for main in written[:2]:
        run(grown.folder, "mypy", main)


def test_asyncapi_lists_the_new_channel_with_its_stages(grown: Grown) -> None:
    command = [*MILEPOST, "asyncapi"]
    env = environment(PYTHONPATH=str(grown.folder))
    ran = subprocess.run(command, cwd=grown.folder, env=env, capture_output=True, text=True, check=True)
    document = json.loads(ran.stdout)
    (channel,) = [name for name, one in document["channels"].items() if one["address"] == "specimen:taken"]
    at = {"$ref": f"#/channels/{channel}"}
    found = {name for name, operation in document["operations"].items() if operation["channel"] == at}
    assert found == {"specimen.send", "specimen-log.receive"}


def test_make_lock_locks_the_new_stages(grown: Grown) -> None:
    ran = subprocess.run(["make", "-n", "lock"], cwd=grown.folder, capture_output=True, text=True, check=True)
    components = ran.stdout.partition("for component in ")[2].partition(";")[0].split()
    assert {"specimen", "specimen-log", "distance", "stage", "bridge"} <= set(components)


def test_new_works_in_a_project_of_three_files(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/__init__.py").touch()
    vocabulary = 'from milepost import Payload\n\n\nclass Upload(Payload, channel="uploaded"):\n    url: str\n'
    (tmp_path / "functions/payloads.py").write_text(vocabulary)
    (tmp_path / "helm").mkdir()
    (tmp_path / "helm/values.yaml").write_text("stages:\n    resize:\n        consumes: uploaded\n")
    made = make(tmp_path, "thumbnail", "--on", "uploaded", "--emits", "made", library=ROOT)
    assert made.code == 0, made.stderr
    assert "make " not in made.stdout
    assert "`python -m pytest -k thumbnail`" in made.stdout
    assert "`milepost up`, and `milepost watch`" in made.stdout
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.suffix != ".pyc"}
    kept = {"functions/__init__.py", "functions/payloads.py", "helm/values.yaml"}
    assert written == {*kept, "functions/thumbnail/main.py", "tests/test_thumbnail_stage.py"}
    entry = "    thumbnail:\n        consumes: uploaded\n        emits: made\n"
    assert (tmp_path / "helm/values.yaml").read_text().endswith(entry)
    judge = make(tmp_path, "judge", "--on", "uploaded", "--emits", "approved,declined", "--order", "url", library=ROOT)
    assert judge.code == 0, judge.stderr
    assert "give fields to what it answers: Approved, Declined" in judge.stdout
    entry = "    judge:\n        consumes: uploaded\n        emits: [approved, declined]\n        order: url\n"
    assert (tmp_path / "helm/values.yaml").read_text().endswith(entry)
    main, test = tmp_path / "functions/judge/main.py", tmp_path / "tests/test_judge_stage.py"
    assert "-> Approved | Declined:" in main.read_text()
    # In place of one answer on one of two channels: several answers.
    declining = '    if payload.url == "bad":\n        return [Declined(text="no")]\n'
    change(
        main,
        ("-> Approved | Declined", "-> list[Approved | Declined]"),
        ("    return Approved(", f"{declining}    return 2 * [Approved("),
        ("json())", "json())]"),
    )
    change(
        test,
        ('"approved": example(Upload)', '"approved": example(Upload), "declined": {"url": "bad"}'),
        ("    consumes =", "    split = True\n    consumes ="),
        ("isinstance(run(main, example(Upload)), Approved)", "len(run_all(main, example(Upload))) == 2"),
        ("load, run", "load, run_all"),
    )
    change(tmp_path / "helm/values.yaml", (entry, f"{entry}        split: true\n"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    chosen = "not judge or several or table or batch or describes or payload or answer or next or kept"
    run(tmp_path, "pytest", *OWN_TESTS, "tests", "-k", chosen, library=ROOT)


def change(path: Path, *replacements: tuple[str, str]) -> None:
    text = path.read_text()
    for before, after in replacements:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text)


@pytest.mark.parametrize("name", ["events", "function", "app", "image", "build"])
def test_stage_may_be_called_as_a_folder_or_a_key(name: str) -> None:
    """The entry of a stage after it has the paths of the library, whatever the last stage is called."""
    text = (ROOT / "skaffold.yaml").read_text()
    last = re.compile(r"(functions/|requirements/|build\.sh |milepost[-_]|stages\.)email\b")
    renamed = last.sub(rf"\g<1>{name}", text)
    assert edit.skaffold(renamed, "late", name) == last.sub(rf"\g<1>{name}", edit.skaffold(text, "late", "email"))
    # Two images that list one folder are told apart by the chart's template.
    shared = text.replace('- "functions/store/**/*.py"', '- "functions/email/**/*.py"')
    assert "build.sh late" in edit.skaffold(shared, "late", "email")
    beside = last.sub(r"\g<1>bulk-email", text).replace("distance", "email")
    assert "functions/late/**/*.py" in edit.skaffold(beside, "late", "email")


def test_other_names_that_end_in_that_of_the_last_stage_stay() -> None:
    text = (ROOT / "skaffold.yaml").read_text()
    first = "            - requirements/email.txt\n"
    theirs = ["email", "my-email/*.html", "functions/my-email/*.py", "requirements/my-email.txt", "milepost/email/*.py"]
    theirs += ["lib/email.py", "dev.local/other-email", "x=my-email"]
    own = ["./functions/email/text.txt", "functions/email.py", "STAGE=email", "dev.local/milepost-email"]
    more = "".join(f"            - {path}\n" for path in theirs + own)
    made = yaml.safe_load(edit.skaffold(text.replace(first, first + more), "late", "email"))
    (added,) = [one for one in made["build"]["artifacts"] if one["image"] == "dev.local/milepost-late"]
    paths = added["custom"]["dependencies"]["paths"]
    begin = paths.index("requirements/late.txt") + 1
    renamed = [path.replace("email", "late") for path in own]
    assert paths[begin : begin + len(theirs + own)] == theirs + renamed


def test_layout_of_the_file_is_free() -> None:
    build, deploy = BARE.split("deploy:\n")
    anchored = build.replace("image: email", "image: &mail email").replace("docker:\n", "docker: &docker\n", 1)
    for text in (f"deploy:\n{deploy}{build}", f"{anchored}deploy:\n{deploy}"):
        made = yaml.safe_load(edit.skaffold(text, "late", "email"))
        assert made == yaml.safe_load(edit.skaffold(BARE, "late", "email"))


DOCKER = """\
build:
  artifacts:
    - image: registry.example.org/you/email
      docker:
        dockerfile: functions/email/Dockerfile
        buildArgs: {STAGE: email, PORT: "8080"}
    - image: bulk-email
      docker: {buildArgs: {STAGE: bulk-email}}
deploy:
  helm:
    releases:
      - setValueTemplates:
          stages.email.image: "{{.IMAGE_FULLY_QUALIFIED_registry_example_org_you_email}}"
          stages.bulk-email.image: "{{.IMAGE_REPO_bulk_email}}:{{.IMAGE_TAG_bulk_email}}"
"""


def test_image_that_docker_builds_gets_one_like_it() -> None:
    made = yaml.safe_load(edit.skaffold(DOCKER, "late", "email"))
    first, added, _ = made["build"]["artifacts"]
    assert first == yaml.safe_load(DOCKER)["build"]["artifacts"][0]
    assert added == {
        "image": "registry.example.org/you/late",
        "docker": {"dockerfile": "functions/late/Dockerfile", "buildArgs": {"STAGE": "late", "PORT": "8080"}},
    }
    (release,) = made["deploy"]["helm"]["releases"]
    name = "{{.IMAGE_FULLY_QUALIFIED_registry_example_org_you_late}}"
    assert release["setValueTemplates"]["stages.late.image"] == name
    made = yaml.safe_load(edit.skaffold(DOCKER, "late", "bulk-email"))
    assert made["build"]["artifacts"][-1] == {"image": "late", "docker": {"buildArgs": {"STAGE": "late"}}}
    with pytest.raises(ConfigurationError, match="no image like that of email"):
        edit.skaffold(DOCKER.replace("you_email}", "you_mailer}"), "late", "email")


BARE = DOCKER.replace("registry.example.org/you/email", "email").replace("registry_example_org_you_email", "email")


@pytest.mark.parametrize("text", [DOCKER, BARE, (ROOT / "skaffold.yaml").read_text()], ids=["docker", "bare", "ours"])
def test_name_of_a_stage_may_contain_that_of_the_last_one(text: str) -> None:
    usual = edit.skaffold(text, "zzz", "email")
    for name in ("big-email", "email-2", "my-email-2", "email-email", "myemail", "emails", "e"):
        in_template = name.replace("-", "_")
        expected = re.sub(r"(\.IMAGE_\w*)zzz", rf"\g<1>{in_template}", usual).replace("zzz", name)
        assert edit.skaffold(text, name, "email") == expected


def test_image_that_cannot_be_put_in_is_reported() -> None:
    in_one_line = re.sub(r"setValueTemplates:\n +(.*)\n +(.*)\n", r"setValueTemplates: {\1, \2}\n", BARE)
    assert yaml.safe_load(in_one_line) == yaml.safe_load(BARE)
    with pytest.raises(ConfigurationError, match="late's image cannot be put in"):
        edit.skaffold(in_one_line, "late", "email")


def test_yaml_keywords_stay_strings() -> None:
    for name, channel in (("on", "Off"), ("y", "12:30:45"), ("a", "1e3"), ("b", "user:email"), ("c", "true")):
        values = edit.add_stage_row(
            "stages:\n  # first\n  one:\n    consumes: x\n", name, "x", [channel], order=channel
        )
        entry = {"consumes": "x", "emits": channel, "order": channel}
        assert yaml.safe_load(values)["stages"] == {"one": {"consumes": "x"}, name: entry}


# What runs


@pytest.fixture(scope="module")
def up(grown: Grown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up") / "data", "--project", str(grown.folder)) as running:
        yield running.ready()
        assert running.end() == 0


def test_both_stages_of_a_channel_get_each_event(up: Up) -> None:
    assert {"specimen", "specimen-log"} < set(up.stack["functions"])
    with Milepost("watch", "--json", "--data", str(up.data)) as watch:
        watch.wait_for_line("watching ")
        with httpx.Client(base_url=up.stack["gateway"], timeout=ANSWER_WITHIN) as client:
            bodies = [{"email": "ada@example.org", "lat": lat, "long": 3} for lat in range(EVENTS)]
            ids = [client.post("/distance", json=body).raise_for_status().json()["id"] for body in bodies]
            heard = ("calculated_distance", "specimen:taken", "email:sent")
            watch.wait_for(lambda: all(len(on(watch, channel)) >= EVENTS for channel in heard), what="every event")
            for channel in heard:
                assert Counter(on(watch, channel)) == Counter(ids)
            steps = client.get(f"/submissions/{ids[0]}").json()["channels"]
            reached = {step["channel"]: step["data"] for step in steps}
            assert json.loads(reached["specimen:taken"]["text"]) == bodies[0]
            page = client.get(f"/submissions/{ids[0]}", headers={"accept": "text/html"}).text
            assert ">specimen:taken<" in page
    told = re.compile(r"specimen-log \|.* channel=specimen:taken id=(\S+) outcome=nothing-done-yet .*")

    def seen() -> Counter[str]:
        return Counter(found[1] for line in list(up.lines) if (found := told.fullmatch(line)))

    up.wait_for(lambda: seen() == Counter(ids), what="the second stage on the new channel had every event")


def on(watch: Milepost, channel: str) -> list[str]:
    """Ids of the events that were shown on a channel."""
    shown: list[dict[str, Any]] = [json.loads(line) for line in list(watch.lines) if line.startswith("{")]
    return [one["message"]["id"] for one in shown if one["channel"] == channel]
