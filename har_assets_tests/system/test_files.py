"""Files that are written whole, and what killed writers leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from har_assets.system.files import remove_partials, short_name, write_text_whole, written_whole


def test_the_target_changes_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "facts.json"
    write_text_whole(target, "before")
    with written_whole(target) as partial:
        partial.write_text("after")
        assert target.read_text() == "before"
        assert partial.parent == target.parent  # on one file system, or the replacement is a copy
        assert partial.suffix == ".partial"
    assert target.read_text() == "after"
    assert list(target.parent.iterdir()) == [target]


def test_a_writer_that_chooses_the_format_by_the_suffix_finds_it(tmp_path: Path) -> None:
    with written_whole(tmp_path / "clip.mp4.timeline.png", keep_suffix=True) as partial:
        assert partial.suffix == ".png"
        assert partial.name.startswith(".")
        partial.touch()


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_fault_leaves_the_target_and_nothing_else(tmp_path: Path, fault: type[BaseException]) -> None:
    target = tmp_path / "facts.json"
    write_text_whole(target, "before")
    with pytest.raises(fault), written_whole(target) as partial:  # noqa: PT012
        partial.write_text("half")
        raise fault
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "facts.json"):
        pass


def test_two_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "facts.json"
    with written_whole(target) as one, written_whole(target) as other:
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"  # the outer block ended last


@pytest.mark.parametrize("name", ["a[1].zip", f"{'ü' * 125}.zip"])
@pytest.mark.parametrize("keep_suffix", [False, True])
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_stays(
    tmp_path: Path, keep_suffix: bool, name: str
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from har_assets.system.files import written_whole\n"
        f"with written_whole(Path(sys.argv[1]), keep_suffix={keep_suffix}) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / name
    subprocess.run([sys.executable, "-c", code, target], check=False)
    (left,) = tmp_path.iterdir()
    with written_whole(target, keep_suffix=keep_suffix) as partial, written_whole(tmp_path / "b.zip") as other:
        partial.touch()
        other.touch()
        remove_partials(target, untouched_s=60)
        assert left.exists()
        os.utime(left, (time.time() - 100, time.time() - 100))
        remove_partials(tmp_path / "b.zip", untouched_s=60)
        assert left.exists()
        remove_partials(target, untouched_s=60)
        assert sorted(tmp_path.iterdir()) == sorted([partial, other])


def test_a_name_that_is_too_long_is_cut_and_stays_its_own() -> None:
    assert short_name("ü" * 100, 200) == "ü" * 100
    one, other = (short_name("ü" * 120 + end, 200) for end in "xy")
    assert one != other
    assert len(one.encode()) <= 200
    assert one.startswith("ü" * 90)
    assert len(os.fsencode(short_name(os.fsdecode(b"\xff" * 255), 200))) <= 200
