import os
import stat
from pathlib import Path

import pytest

from bnfold.errors import OutputError
from bnfold.report.files import ReportFile


def test_a_report_is_written_with_the_mode_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    ReportFile(tmp_path / "report.json").write("{é}\n")
    assert (tmp_path / "report.json").read_bytes() == "{é}\n".encode()
    assert (tmp_path / "report.json").stat().st_mode == ordinary.stat().st_mode


def test_nothing_is_there_before_the_report_is_written(tmp_path: Path) -> None:
    ReportFile(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_an_old_report_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    ReportFile(tmp_path / "link.json").write("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o640


def test_a_failing_write_leaves_the_old_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").write_text("old")
    file = ReportFile(tmp_path / "report.json")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=r"report\.json: No space left on device"):
        file.write("new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/report.json", "No such file or directory"),
        ("missing/../report.json", "No such file or directory"),
        ("folder", "it is a directory"),
        ("file/report.json", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_work_is_noticed_at_once(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message):
        ReportFile(tmp_path / path)


def test_a_device_is_written_directly() -> None:
    ReportFile(os.devnull).write("text")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_full_device_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="/dev/full: No space left on device"):
        ReportFile("/dev/full").write("text")


def test_a_dash_is_left_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ReportFile("-").is_standard_output
    assert list(tmp_path.iterdir()) == []
