"""`stages:` in the values: the only list of stages there is."""

from pathlib import Path

import pytest

from milepost import stage_values
from milepost.errors import ConfigurationError
from milepost.stage_values import StageEntry

THREE = """
stages:
  distance: {consumes: raw_input, emits: calculated_distance, env: {LOG: debug}, scale: {min: 1}}
  store: {consumes: calculated_distance, emits: "user:email", delivery: {retry: 3}}
  audit: {consumes: calculated_distance}
other: {anything: goes}
"""


def written(folder: Path, values: str) -> Path:
    (folder / "helm").mkdir()
    (folder / "helm/values.yaml").write_text(values)
    return folder


def test_stages_are_read_in_order_and_unknown_fields_ignored(tmp_path: Path) -> None:
    assert stage_values.read(written(tmp_path, THREE)) == [
        StageEntry(name="distance", consumes="raw_input", emits=("calculated_distance",), env={"LOG": "debug"}),
        StageEntry(name="store", consumes="calculated_distance", emits=("user:email",), delivery={"retry": 3}),
        StageEntry(name="audit", consumes="calculated_distance"),
    ]


def test_an_external_receiver_has_a_url_and_variables_for_its_headers(tmp_path: Path) -> None:
    values = """
stages:
  my-hook:
    consumes: digest
    url: https://hooks.example.org/
    headersFrom: {Authorization: {name: hook, key: token}, X-Api-Key: {name: hook, key: key}}
"""
    (entry,) = stage_values.read(written(tmp_path, values))
    assert entry.url == "https://hooks.example.org/"
    assert entry.variables == {
        "Authorization": "HEADER_MY_HOOK_AUTHORIZATION",
        "X-Api-Key": "HEADER_MY_HOOK_X_API_KEY",
    }


def test_two_headers_never_share_a_variable(tmp_path: Path) -> None:
    secret, url = "{name: s, key: k}", "url: 'https://a.example/'"
    values = f"stages:\n  a: {{consumes: c, {url}, headersFrom: {{B-C: {secret}}}}}\n"
    values += f"  a-b: {{consumes: c, {url}, headersFrom: {{C: {secret}}}}}\n"
    with pytest.raises(ConfigurationError, match="HEADER_A_B_C would hold two headers"):
        stage_values.read(written(tmp_path, values))


def test_stage_may_emit_one_of_several_channels(tmp_path: Path) -> None:
    values = (
        "stages:\n  decide: {consumes: a, emits: [approved, declined]}\n  ship: {consumes: approved, emits: sent}\n"
    )
    assert [entry.emits for entry in stage_values.read(written(tmp_path, values))] == [
        ("approved", "declined"),
        ("sent",),
    ]


@pytest.mark.parametrize(
    ("emits", "told"), [("[b, b]", "names b twice"), ("{b: c}", "emits"), ("[b, 7]", "emits"), ("7", "emits")]
)
def test_emits_that_are_no_channels_are_refused(tmp_path: Path, emits: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"stages\.decide: (.|\n)*{told}"):
        stage_values.read(written(tmp_path, f"stages:\n  decide: {{consumes: a, emits: {emits}}}\n"))


@pytest.mark.parametrize(
    ("order", "read"), [("email", "email"), ("true", True), ("'true'", "true"), ("false", False), ("", False)]
)
def test_order_is_a_field_or_the_partition_key(tmp_path: Path, order: str, read: str | bool) -> None:
    (entry,) = stage_values.read(written(tmp_path, f"stages:\n  mail: {{consumes: a, order: {order}}}\n"))
    assert entry.order == read
    assert type(entry.order) is type(read)


@pytest.mark.parametrize("order", ["7", "1.5", "''", "[email]", "{by: email}", "1", "0", f"'{'x' * 201}'"])
def test_order_that_is_no_field_is_refused_by_name(tmp_path: Path, order: str) -> None:
    with pytest.raises(ConfigurationError, match=r"stages\.mail: order.*: must be true \(order by"):
        stage_values.read(written(tmp_path, f"stages:\n  mail: {{consumes: a, order: {order}}}\n"))


def test_stage_that_splits_has_something_to_emit(tmp_path: Path) -> None:
    values = "stages:\n  split: {consumes: a, emits: b, split: true}\n"
    assert stage_values.read(written(tmp_path, values))[0].split
    (tmp_path / "helm/values.yaml").write_text("stages:\n  split: {consumes: a, split: true}\n")
    with pytest.raises(ConfigurationError, match="split: it emits nothing that could be several"):
        stage_values.read(tmp_path)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("one: {consumes: a, emits: [a, c]}", "one are a circle"),
        ("one: {consumes: a, emits: b}\n  two: {consumes: b, emits: [c, a]}\n  end: {consumes: c}", "one and two are"),
    ],
)
def test_event_that_would_come_back_with_its_id_is_refused(tmp_path: Path, rows: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{named}.* with the same id each time, as a redelivery does"):
        stage_values.read(written(tmp_path, f"stages:\n  {rows}\n"))
    values = f"stages:\n  {rows.replace('}', ', split: true}', 1)}\n"
    (tmp_path / "helm/values.yaml").write_text(values)
    assert stage_values.read(tmp_path)[0].split


def test_channel_among_several_is_emitted_by_one_stage(tmp_path: Path) -> None:
    values = "stages:\n  one: {consumes: a, emits: [b, c]}\n  two: {consumes: a, emits: [d, c]}\n"
    with pytest.raises(ConfigurationError, match="c is emitted by one and two"):
        stage_values.read(written(tmp_path, values))


def test_many_stages_may_consume_a_channel_and_one_may_emit_it(tmp_path: Path) -> None:
    values = "stages:\n  one: {consumes: a, emits: b}\n  two: {consumes: a, emits: b}\n"
    with pytest.raises(ConfigurationError, match=r"b is emitted by one and two; .* have the same id there"):
        stage_values.read(written(tmp_path, values))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("", "has no rows under `stages:`"),
        ("- a list", "has no rows under `stages:`"),
        ("stages:", "has no rows under `stages:`"),
        ("stages: {}", "has no rows under `stages:`"),
        ("stages: [distance]", "has no rows under `stages:`"),
        ("stages: {distance: }", "stages.distance"),
        ("stages: {distance: {emits: b}}", "stages.distance"),
        ("stages: {distance: raw_input}", "stages.distance"),
        ("stages: {distance: [1, 2]}", "stages.distance"),
        ("stages: {distance: {consumes: 1}}", "stages.distance"),
        ("stages: {distance: {consumes: {}}}", "stages.distance"),
        ("stages: {", "not YAML"),
        ("stages: {a: {consumes: b, headersFrom: {A: {name: c, key: d}}}}", "headersFrom is for a url"),
        ("stages: {a: {consumes: b, files: {A: ../c}}}", "stages.a"),
    ],
)
def test_wrong_values_are_refused_and_their_file_and_entry_named(tmp_path: Path, values: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        stage_values.read(written(tmp_path, values))
    assert "values.yaml" in str(caught.value)


def test_a_folder_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run this in the project's folder"):
        stage_values.read(tmp_path)


def test_the_projects_own_stages_are_read(project: Path) -> None:
    wired = {entry.name: (entry.consumes, entry.emits) for entry in stage_values.read(project)}
    assert (
        wired.items()
        >= {
            "distance": ("raw_input", ("calculated_distance",)),
            "store": ("calculated_distance", ("user:email",)),
            "email": ("user:email", ("email:sent",)),
        }.items()
    )
