"""Damaged files: each gives frames or a reason, whatever it does to its worker."""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from har_assets.errors import VideoError
from har_assets.video.decode import decode_video
from har_assets.video.workers import decode_many
from har_assets_tests.video.conftest import make_video

TIMEOUT_S = 20


def flip_bits(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 10, 200])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def flip_bits_of_the_header(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 5, 20])):
        content[chance.randrange(min(len(content), 600))] ^= 1 << chance.randrange(8)


def cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def cut_out_the_middle(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.randrange(1, 4000)]


def zeros(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    stop = min(start + chance.randrange(1, 4000), len(content))
    content[start:stop] = bytes(stop - start)


def large_numbers(content: bytearray, chance: random.Random) -> None:
    """Sizes, counts and dimensions that no file can keep."""
    for _ in range(3):
        start = chance.randrange(max(min(len(content), 1000) - 4, 1))
        content[start : start + 4] = b"\xff\xff\xff\x7f"


DAMAGES = [flip_bits, flip_bits_of_the_header, cut, cut_out_the_middle, zeros, large_numbers]


def fuzzed_files(sound: list[Path], folder: Path, count: int, seed: int) -> list[Path]:
    chance = random.Random(seed)
    folder.mkdir()
    paths = []
    for number in range(count):
        source = sound[number % len(sound)]
        content = bytearray(source.read_bytes())
        if number % 7 == 6:  # the header of another format, or of another file of the same one
            other = chance.choice(sound).read_bytes()
            length = chance.randrange(8, 2000)
            content[:length] = other[:length]
        else:
            chance.choice(DAMAGES)(content, chance)
        path = folder / f"{number:04d}{source.suffix}"
        path.write_bytes(content)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sound_files(tmp_path_factory.mktemp("sound"))


def sound_files(folder: Path) -> list[Path]:
    """Undamaged AVI, MP4, WebM and MKV files."""
    return [
        make_video(folder / "a.avi", b_frames=2, tag="DX50", frames=30),
        make_video(folder / "a.mp4", codec="libx264", frames=30),
        make_video(folder / "a.webm", codec="libvpx", frames=30),
        make_video(folder / "a.mkv", codec="libx264", b_frames=2, frames=30),
        make_video(folder / "j.avi", codec="mjpeg", pixels="yuvj420p", frames=10),
    ]


def assert_all_accounted_for(paths: list[Path]) -> Counter[str]:
    function = partial(decode_small, size=(32, 32))
    outcomes: Counter[str] = Counter()
    seen = set()
    for number, result in decode_many(paths, function, workers=2, timeout_s=TIMEOUT_S):
        seen.add(number)
        if isinstance(result, VideoError):
            assert str(result)
            assert "github/workspace" not in str(result), "decord's own text"
            outcomes[str(result).split(":")[0].split("(")[0]] += 1
        else:
            assert result[1:] == (32, 32, 3)
            assert result[0] > 0
            outcomes["frames"] += 1
    assert seen == set(range(len(paths)))
    return outcomes


def decode_small(path: Path, *, size: tuple[int, int]) -> tuple[int, ...]:
    return decode_video(path, size=size, max_frames=200).frames_THWC.shape


def test_forty_damaged_files(sound: list[Path], tmp_path: Path) -> None:
    outcomes = assert_all_accounted_for(fuzzed_files(sound, tmp_path / "fuzzed", 40, seed=0))
    assert outcomes["frames"] > 5


@pytest.mark.slow
def test_a_thousand_damaged_files(
    sound: list[Path], tmp_path: Path, hmdb51_clips: list[Path], record_property: Callable[..., None]
) -> None:
    real = sorted(hmdb51_clips, key=lambda path: path.stat().st_size)[:2]
    outcomes = assert_all_accounted_for(fuzzed_files(sound + real, tmp_path / "fuzzed", 1000, seed=1))
    for outcome, count in outcomes.most_common():
        record_property(outcome, count)
        print(f"{count:5d} {outcome}")
    assert sum(outcomes.values()) == 1000
    assert outcomes["frames"] > 200
