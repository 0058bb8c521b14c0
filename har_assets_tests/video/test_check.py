from collections.abc import Callable
from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.video.check import check_folder


def test_findings_of_a_folder(tmp_path: Path, small_video: Callable[..., Path]) -> None:
    (tmp_path / "wave").mkdir()
    small_video("wave/fine.AVI".lower(), frames=9)
    cut = small_video("cut.avi", height=240, width=320, frames=30)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "README.txt").write_text("not looked at")
    said: list[tuple[int, int]] = []
    cut_finding, empty, fine = check_folder(
        tmp_path, workers=2, progress=lambda done, total: said.append((done, total))
    )
    assert said == [(1, 3), (2, 3), (3, 3)]
    assert (fine.path.name, fine.ok, fine.frames, fine.height, fine.width, fine.fps) == (
        "fine.avi",
        True,
        9,
        48,
        64,
        25.0,
    )
    assert (cut_finding.ok, cut_finding.problem) == (False, "")
    assert "of 30 frames" in cut_finding.note
    assert (empty.ok, empty.frames, empty.problem) == (False, 0, "the file is empty (0 bytes)")


def test_no_folder_and_no_video(tmp_path: Path) -> None:
    with pytest.raises(HarError, match="no folder"):
        check_folder(tmp_path / "absent")
    with pytest.raises(HarError, match="no video below"):
        check_folder(tmp_path)


def test_the_odd_files(awkward: Path) -> None:
    findings = check_folder(awkward, workers=2)
    assert sum(bool(finding.problem) for finding in findings) == 4  # and the .mp3 is not looked at
    assert sum(bool(finding.note) for finding in findings) == 3
    assert len(findings) == 18
