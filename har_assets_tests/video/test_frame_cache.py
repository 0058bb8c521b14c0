import csv
import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import HarError, VideoError
from har_assets.system.locks import exclusive
from har_assets.video.decode import decode_video
from har_assets.video.frame_cache import (
    INDEX_COLUMNS,
    CacheParams,
    CacheReport,
    FrameCache,
    build_frame_cache,
    clear_work,
)
from har_assets.video.frame_cache import build as build_module
from har_assets.video.frame_cache import journal as journal_module
from har_assets_tests.video.conftest import make_video

PARAMS = CacheParams(height=32, width=40, stride=1, max_frames=16, fps=25.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight videos of 6 to 20 frames, and one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    videos = {f"clip {n}": make_video(folder / f"{n}.avi", frames=6 + 2 * n, seed=n) for n in range(8)}
    broken = folder / "broken.avi"
    broken.write_bytes(b"RIFF is not enough")
    return {**videos, "broken": broken}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CacheReport]:
    """`build_frame_cache` into a folder of the test; in this process unless `processes` says how many."""

    def build(clips: dict[str, Path], name: str, *, processes: int | None = None, **settings: object) -> CacheReport:
        defaults = {"params": PARAMS, "work": tmp_path / "work", "log": lambda line: None}
        with monkeypatch.context() as patch:
            if processes is None:
                patch.setattr(build_module, "decode_many", decode_here)
            return build_frame_cache(clips, folder=tmp_path / name, workers=processes, **{**defaults, **settings})

    return build


def decode_here(
    tasks: Iterable[object], function: Callable[[object], object], **settings: object
) -> Iterator[tuple[int, object]]:
    """What `decode_many` does, without processes and, as these do, not in the order of the tasks."""
    results = []
    for number, task in enumerate(tasks):
        try:
            results.append((number, function(task)))
        except VideoError as error:
            results.append((number, error))
    random.Random(0).shuffle(results)
    yield from results


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_frames_are_right(cache: FrameCache, clips: dict[str, Path], params: CacheParams = PARAMS) -> None:
    for clip in cache.rows.clips:
        expected = decode_video(
            clips[clip],
            size=(params.height, params.width),
            sampling=params.sampling,
            resize=params.resize,
            max_frames=params.max_frames,
        )
        assert np.array_equal(cache.frames(clip), expected.frames_THWC)


def test_build_and_read(clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    lines: list[str] = []
    report = build(clips, "cache", processes=2, log=lines.append)
    assert (report.clips, report.decoded, report.reused, report.resumed) == (8, 9, 0, 0)
    assert list(report.quarantined) == ["broken"]
    assert "9 of 9 videos" in lines[-1]
    assert "1 quarantined" in lines[-1]

    cache = FrameCache(tmp_path / "cache")
    assert cache.params == PARAMS
    assert len(cache) == 8
    assert "clip 3" in cache
    assert "broken" not in cache
    assert_frames_are_right(cache, clips)
    assert list(cache.index.columns) == INDEX_COLUMNS
    assert cache.index["clip"].tolist() == sorted(set(clips) - {"broken"})
    assert cache.index["num_frames"].tolist() == [6, 8, 10, 12, 14, 16, 16, 16]
    assert cache.quarantine["clip"].tolist() == ["broken"]
    assert report.frames == cache.index["num_frames"].sum()
    frames_THWC = cache.frames("clip 2")
    assert not frames_THWC.flags.owndata  # mapped, not read
    assert not frames_THWC.flags.writeable

    row = cache.row("clip 2")
    first, count = cache.rows.first_frame[row], cache.rows.num_frames[row]
    assert np.array_equal(cache.pack(cache.rows.pack[row])[first : first + count], frames_THWC)
    plain = np.load(tmp_path / "cache" / cache.index["pack"][0], mmap_mode="r")
    assert plain.shape == (report.frames, 32, 40, 3)

    with pytest.raises(KeyError, match="not a video"):
        cache.frames("broken")
    with pytest.raises(KeyError, match="never added"):
        cache.frames("unheard of")


def test_a_cache_travels_as_its_path(clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    build(clips, "cache")
    cache = FrameCache(tmp_path / "cache")
    cache.frames("clip 1")
    sent = pickle.dumps(cache)
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent).frames("clip 1"), cache.frames("clip 1"))


def test_the_same_clips_give_the_same_bytes(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    build(clips, "one", work=tmp_path / "w1")
    build(dict(reversed(clips.items())), "two", work=tmp_path / "w2", processes=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_adding_clips_decodes_only_these(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    few = {clip: path for clip, path in clips.items() if clip < "clip 5"}
    build(few, "first")
    before = contents(tmp_path / "first")
    report = build(clips, "second", previous=tmp_path / "first")
    assert report.reused == 5
    assert report.decoded == 4  # three new ones, and the quarantined one again
    assert_frames_are_right(FrameCache(tmp_path / "second"), clips)
    packs = {path.name: path.stat().st_ino for path in (tmp_path / "first").glob("*.npy")}
    assert all((tmp_path / "second" / name).stat().st_ino == inode for name, inode in packs.items())
    assert contents(tmp_path / "first") == before

    third = build(clips, "third", previous=tmp_path / "second")
    assert (third.reused, third.decoded) == (8, 1)
    assert contents(tmp_path / "third") == contents(tmp_path / "second")


def test_published_packs_are_not_written_when_the_work_folder_goes_on(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    few = {clip: path for clip, path in clips.items() if clip < "clip 5"}
    build(few, "first")
    before = contents(tmp_path / "first")
    report = build(clips, "second")  # the same work folder, no `previous`
    assert report.resumed == 5
    assert contents(tmp_path / "first") == before
    assert_frames_are_right(FrameCache(tmp_path / "second"), clips)


def test_mostly_unwanted_packs_are_left_behind(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    build(clips, "first")
    one = {"clip 0": clips["clip 0"]}
    report = build(one, "second", previous=tmp_path / "first", work=tmp_path / "w2")
    assert (report.reused, report.decoded) == (0, 1)
    assert report.bytes < (tmp_path / "first").joinpath("index.csv").stat().st_size + 6 * 32 * 40 * 3


def test_other_parameters_start_again(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    build(clips, "first")
    params = CacheParams(height=20, width=20, stride=2, max_frames=None, fps=25.0)
    report = build(clips, "second", params=params, previous=tmp_path / "first")
    assert (report.reused, report.resumed, report.decoded) == (0, 0, 9)
    assert_frames_are_right(FrameCache(tmp_path / "second"), clips, params)


def test_a_video_under_two_names_is_stored_once(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    report = build({"a": clips["clip 1"], "b": clips["clip 1"]}, "cache")
    assert (report.clips, report.decoded, report.frames) == (2, 1, 8)
    cache = FrameCache(tmp_path / "cache")
    assert np.array_equal(cache.frames("a"), cache.frames("b"))


def test_packs_end_before_they_grow_too_large(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    build(clips, "cache", pack_bytes=30 * PARAMS.frame_bytes)
    packs = list((tmp_path / "cache").glob("*.npy"))
    assert len(packs) == 5  # of 6+8+10, 12+14, 16, 16 and 16 frames
    assert all(len(np.load(pack, mmap_mode="r")) <= 30 for pack in packs)
    assert_frames_are_right(FrameCache(tmp_path / "cache"), clips)


def test_names_survive_the_tables(clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    names = ["NA", "007", 'a,"b"', "line\nbreak", "Golf_Tips!!!_#&()+;@[]~_ü"]
    build({name: clips[f"clip {n}"] for n, name in enumerate(names)}, "cache")
    cache = FrameCache(tmp_path / "cache")
    assert sorted(cache.index["clip"]) == sorted(names)
    assert all(name in cache for name in names)


# ------------------------------------------------------------------------------------ interruptions

BUILD = """
import json, sys, time
from pathlib import Path
from har_assets.video.frame_cache import CacheParams, build_frame_cache, journal

def slow(self, sha, decoded, append=journal.Journal.append):
    time.sleep(0.01)
    append(self, sha, decoded)

if __name__ == "__main__":
    journal.Journal.append = slow  # so that there is a middle to be killed in
    clips, folder, work = sys.argv[1:]
    clips = {name: Path(path) for name, path in json.loads(clips).items()}
    params = CacheParams(height=32, width=40, stride=1, max_frames=16, fps=25.0)
    journal.SYNC_BYTES = 40 * params.frame_bytes
    build_frame_cache(clips, params=params, folder=Path(folder), work=Path(work), workers=2,
                      pack_bytes=60 * params.frame_bytes)
"""


def start_build(clips: dict[str, Path], tmp_path: Path, name: str) -> "subprocess.Popen[bytes]":
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    names = json.dumps({clip: str(path) for clip, path in clips.items()})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, str(script), names, str(tmp_path / name), str(tmp_path / f"work of {name}")],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def kill_and_resume(clips: dict[str, Path], tmp_path: Path, kills: int, seed: int) -> list[int]:
    """Kill a build `kills` times, ever later, then let it end; return the lines of the journal at each kill."""
    chance = random.Random(seed)
    undisturbed = start_build(clips, tmp_path, "undisturbed")
    assert undisturbed.wait(120) == 0
    journal = tmp_path / "work of killed" / "journal.jsonl"
    seen = []
    for target in sorted(chance.sample(range(len(clips)), kills)):  # kill when this many clips are noted
        run = start_build(clips, tmp_path, "killed")
        while run.poll() is None:
            lines = journal.read_bytes().count(b"\n") - 1 if journal.exists() else -1
            if lines >= target:
                time.sleep(chance.random() * 0.05)
                break
            time.sleep(0.001)
        assert run.poll() is None, "the build ended before it was killed"
        run.send_signal(signal.SIGKILL)
        run.wait(20)
        seen.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
    last = start_build(clips, tmp_path, "killed")
    assert last.wait(120) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    return seen


def test_kill_nine_then_the_same_files(clips: dict[str, Path], tmp_path: Path) -> None:
    kill_and_resume(clips, tmp_path, kills=2, seed=1)


@pytest.mark.slow
def test_kill_nine_at_twenty_moments(clips: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    many = {f"{n:03d}": make_video(folder / f"{n}.avi", frames=6 + n % 14, seed=n) for n in range(60)}
    seen = kill_and_resume({**many, "broken": clips["broken"]}, tmp_path, kills=20, seed=0)
    assert len(set(seen)) > 10, "the kills were not spread over the build"


def interrupted(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> tuple[Path, Path, dict[str, bytes]]:
    """A work folder as kill -9 leaves it after all clips: (journal, pack, undisturbed result)."""
    build(clips, "reference", work=tmp_path / "w0")
    build(clips, "aside")
    journal = tmp_path / "work" / "journal.jsonl"
    lines = [line for line in journal.read_bytes().splitlines(keepends=True) if b"finished" not in line]
    journal.write_bytes(b"".join(line for line in lines if b"synced" not in line))
    return journal, tmp_path / "work" / "building-0000.npy", contents(tmp_path / "reference")


def test_only_what_is_forced_to_the_disk_is_believed_unread(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SYNC_BYTES", 20 * PARAMS.frame_bytes)
    monkeypatch.setattr(journal_module, "COPIERS", 1)
    build(clips, "reference")
    journal = tmp_path / "work" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()][1:]
    noted = 0
    for line in lines:
        noted += "first_frame" in line
        assert line.get("synced", 0) <= noted
    synced = [line["synced"] for line in lines if "synced" in line]
    assert len(synced) > 1  # a slow disk takes several steps at once
    assert synced[-1] == noted == 8

    pack = tmp_path / "work" / "building-0000.npy"
    kept = [line for line in lines if line.get("synced", 0) < 8 and "finished" not in line]
    header = journal.read_text().splitlines()[0]
    journal.write_text("\n".join([header, *(json.dumps(line) for line in kept)]) + "\n")
    copy = bytearray(pack.read_bytes())
    copy[-9000:] = bytes(9000)  # the last clip's frames: noted, not yet forced to the disk
    pack.unlink()
    pack.write_bytes(copy)
    assert build(clips, "resumed").resumed == 7
    assert contents(tmp_path / "resumed") == contents(tmp_path / "reference")


def torn_line(journal: Path, pack: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-30])


def garbage_line(journal: Path, pack: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'\x00\x00\x00{"sha')


def foreign_line(journal: Path, pack: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'{"sha256": "0", "colour": "blue"}\n')


def frames_behind_the_journal(journal: Path, pack: Path) -> None:
    with pack.open("ab") as file:
        file.write(b"half a clip" * 1000)


def journal_ahead_of_frames(journal: Path, pack: Path) -> None:
    os.truncate(pack, pack.stat().st_size - 5000)


def frames_lost_in_a_power_cut(journal: Path, pack: Path) -> None:
    with pack.open("r+b") as file:
        file.seek(-9000, os.SEEK_END)
        file.write(bytes(9000))


def pack_gone(journal: Path, pack: Path) -> None:
    pack.unlink()


def empty_journal(journal: Path, pack: Path) -> None:
    journal.write_bytes(b"")


def forgotten_part(journal: Path, pack: Path) -> None:
    (journal.parent / ("a" * 64 + ".part")).write_bytes(b"frames of a killed worker")


@pytest.mark.parametrize(
    "damage",
    [
        torn_line,
        garbage_line,
        foreign_line,
        frames_behind_the_journal,
        journal_ahead_of_frames,
        frames_lost_in_a_power_cut,
        pack_gone,
        empty_journal,
        forgotten_part,
    ],
)
def test_resuming_from_damage(
    damage: Callable[[Path, Path], None],
    clips: dict[str, Path],
    build: Callable[..., CacheReport],
    tmp_path: Path,
) -> None:
    journal, pack, reference = interrupted(clips, build, tmp_path)
    published = contents(tmp_path / "aside")
    if damage in (frames_behind_the_journal, journal_ahead_of_frames, frames_lost_in_a_power_cut):
        copy = pack.read_bytes()  # a pack that can still be written to is linked nowhere else
        pack.unlink()
        pack.write_bytes(copy)
    damage(journal, pack)
    report = build(clips, "resumed")
    assert contents(tmp_path / "aside") == published
    assert contents(tmp_path / "resumed") == reference
    assert report.resumed == (0 if damage in (pack_gone, empty_journal) else pytest.approx(7, abs=1))
    assert not list((tmp_path / "work").glob("*.part"))


def test_two_builds_in_one_work_folder(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with (
        exclusive(tmp_path / "work", "a test", name=journal_module.LOCK),
        pytest.raises(HarError, match=rf"Process {os.getpid()} is already at work on a frame cache in"),
    ):
        build(clips, "cache")


def test_full_disk_is_said_and_resumed(
    clips: dict[str, Path],
    build: Callable[..., CacheReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = 0

    def disk_full_at_the_fourth(part: Path, pack: int, start: int, length: int) -> None:
        nonlocal copies
        copies += 1
        if copies == 4:
            os.pwrite(pack, b"a part of it", start)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, pack, start, length)

    real = journal_module._move_frames
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "COPIERS", 1)  # so that the fourth is the fourth
        patch.setattr(journal_module, "_move_frames", disk_full_at_the_fourth)
        with pytest.raises(HarError, match="disk is full"):
            build(clips, "cache")
    assert not (tmp_path / "cache" / "index.csv").exists()
    assert build(clips, "cache").resumed == 3
    build(clips, "reference", work=tmp_path / "w0")
    assert contents(tmp_path / "cache") == contents(tmp_path / "reference")


def test_need_is_said_first_and_checked(
    clips: dict[str, Path],
    build: Callable[..., CacheReport],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(build_module, "SAMPLE_CLIPS", 3)
    lines: list[str] = []
    build(clips, "cache", log=lines.append)
    said = [line for line in lines if line.startswith("Judged by 3 clips, this needs ")]
    assert len(said) == 1
    build(clips, "reference", work=tmp_path / "w0")
    assert contents(tmp_path / "cache") == contents(tmp_path / "reference")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(HarError, match=r"needs [\d.]+ kB of disk and 1.0 kB are free"):
        build(clips, "too large", work=tmp_path / "w1")


def test_nothing_to_cache(clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    with pytest.raises(HarError, match="no clips"):
        build({}, "cache")
    absent = tmp_path / "absent.avi"
    with pytest.raises(HarError, match="None of the 2 clips"):
        build({"broken": clips["broken"], "absent": absent}, "cache")
    with pytest.raises(HarError, match="no frame cache"):
        FrameCache(tmp_path / "cache")


def test_a_refused_video_is_tried_again_by_the_next_build(
    clips: dict[str, Path],
    build: Callable[..., CacheReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_slow(tasks: Iterable[object], *_: object, **__: object) -> Iterator[tuple[int, VideoError]]:
        for number, _task in enumerate(tasks):
            yield number, VideoError("decoding took longer than the limit of 1 s")

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "decode_many", too_slow)
        with pytest.raises(HarError, match="longer than the limit"):
            build(clips, "cache", processes=1)
    assert build(clips, "cache").clips == 8


def test_a_missing_file_is_quarantined(
    clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path
) -> None:
    report = build({**clips, "absent": tmp_path / "absent.avi"}, "cache")
    assert report.quarantined["absent"] == "the file cannot be read: No such file or directory"
    with (tmp_path / "cache" / "quarantine.csv").open() as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["absent", "broken"]


def test_clear_work_keeps_the_cache(clips: dict[str, Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    build(clips, "cache")
    clear_work(tmp_path / "work")
    clear_work(tmp_path / "never made")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock"]
    assert_frames_are_right(FrameCache(tmp_path / "cache"), clips)


def test_caching_the_real_clips(hmdb51_clips: list[Path], build: Callable[..., CacheReport], tmp_path: Path) -> None:
    params = CacheParams(height=128, width=171, max_frames=32)
    clips = {path.stem: path for path in hmdb51_clips}
    assert build(clips, "cache", params=params, processes=2).frames == 9 * 32
    assert_frames_are_right(FrameCache(tmp_path / "cache"), clips, params)
