"""The data folder: one `up` at a time, and a stack.json that is never half of one."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from milepost.cli.local import data_folder
from milepost.errors import ConfigurationError


def test_data_folder_of_a_killed_up_can_be_used_again(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("999999999")
    data_folder.write_stack(tmp_path, {"gateway": "gone"})
    with data_folder.locked(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
        assert data_folder.read_stack(tmp_path) == {}


def test_data_folder_in_use_is_refused(tmp_path: Path) -> None:
    told = f"in use by another .*process {os.getpid()}"
    with data_folder.locked(tmp_path), pytest.raises(ConfigurationError, match=told), data_folder.locked(tmp_path):
        pass
    with data_folder.locked(tmp_path):
        pass


def test_component_that_outlives_its_up_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "FREE_WITHIN", 0.1)
    with data_folder.locked(tmp_path) as lock:
        orphan = subprocess.Popen(["sleep", "1000"], pass_fds=(lock,))
    (tmp_path / "lock").write_text("999999999")
    try:
        with (
            pytest.raises(ConfigurationError, match=r"in use by .*999999999, or by what it started"),
            data_folder.locked(tmp_path),
        ):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with data_folder.locked(tmp_path):
        pass


def test_killed_up_does_not_count_as_running_when_its_process_id_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the killed one started has not ended yet."""
    with data_folder.locked(tmp_path) as lock:
        component = subprocess.Popen(["sleep", "1000"], pass_fds=(lock,))
    assert (tmp_path / "lock").read_text() == str(os.getpid())

    def end_component(_: float) -> None:
        component.kill()
        component.wait()

    monkeypatch.setattr(data_folder, "sleep", end_component)  # called while the folder is not free
    try:
        with data_folder.locked(tmp_path):
            assert component.returncode is not None
    finally:
        end_component(0)


def test_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="choose another folder with --data"),
        data_folder.locked(tmp_path / "file"),
    ):
        pass


def test_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ConfigurationError, match="No locks available; choose"),
        data_folder.locked(tmp_path),
    ):
        pass


def test_broken_stack_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        data_folder.read_stack(tmp_path)
