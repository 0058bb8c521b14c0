"""Frames for people: the right ones, with colour where the heat is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from har_assets.errors import VideoError
from har_assets.model.spec import ModelSpec
from har_assets.report.frames import (
    MOST_MOVING,
    moving_webp,
    shown_from_cache,
    shown_from_video,
    still_webp,
    strip,
    strip_numbers,
    with_heat,
)
from har_assets.video.frame_cache import FrameCache
from har_assets_tests.videos import write_video

SPEC = ModelSpec(
    labels=("a", "b"), num_frames=4, frame_stride=2, decode_height=24, decode_width=32, frame_height=16, frame_width=16
)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Grey frames, each 6 brighter than the last."""
    frames_THWC = np.zeros((20, 48, 64, 3), np.uint8) + (np.arange(20, dtype=np.uint8) * 6)[:, None, None, None]
    return write_video(tmp_path / "grey.avi", frames_THWC)


def test_the_window_that_is_shown_is_the_one_that_was_asked_for(video: Path) -> None:
    shown = shown_from_video(video, SPEC, 3)
    assert shown.frames_THWC.shape == (4, 160, 213, 3)
    assert shown.frames_THWC.mean(axis=(1, 2, 3)) == pytest.approx([36, 48, 60, 72], abs=3)
    assert shown.field == (27, 53, 107, 107)
    assert shown.frame_ms == 67


def test_past_the_end_the_last_frame_is_repeated_and_nothing_is_refused_in_words(video: Path) -> None:
    shown = shown_from_video(video, SPEC, 8)
    assert shown.frames_THWC.mean(axis=(1, 2, 3)) == pytest.approx([96, 108, 108, 108], abs=3)
    with pytest.raises(VideoError, match=r"ends before 1\.3 s"):
        shown_from_video(video, SPEC, 20)


def test_frames_of_the_cache_show_the_same(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    cache = FrameCache(tiny_cache / "cache")
    clip = cache.rows.clips[1]
    from_cache = shown_from_cache(cache.frames(clip), tiny_spec, 2)
    from_video = shown_from_video(tiny_cache / "videos" / clip, tiny_spec, 2)
    assert from_cache.frames_THWC.shape == from_video.frames_THWC.shape
    difference = np.abs(from_cache.frames_THWC.astype(int) - from_video.frames_THWC).mean()
    other = shown_from_cache(cache.frames(clip), tiny_spec, 0)
    assert difference < np.abs(other.frames_THWC.astype(int) - from_video.frames_THWC).mean() / 2


def test_colour_lies_where_the_heat_is_and_the_unseen_is_dark(video: Path) -> None:
    shown = shown_from_video(video, SPEC, 3)
    heat_THW = np.zeros((4, 16, 16), np.float32)
    heat_THW[2, :4, :4] = 1
    found = with_heat(shown, heat_THW).astype(int)
    top, left, height, width = shown.field
    assert found[2, top + 8, left + 8, 0] - found[2, top + 8, left + 8, 2] > 40  # yellow: red over blue
    for frame, row, column in ((2, top + height - 8, left + width - 8), (1, top + 8, left + 8)):
        assert found[frame, row, column] == pytest.approx(shown.frames_THWC[frame, row, column].astype(int), abs=1)
    assert found[2, 2, 2, 0] < shown.frames_THWC[2, 2, 2, 0] / 2


def test_strips_have_gaps_between_their_frames_only() -> None:
    black = np.zeros((3, 10, 20, 3), np.uint8)
    picture = strip(black, black)
    assert picture.shape == (24, 68, 3)
    assert picture[:, :20].max() == 255
    assert picture[:10, :20].max() == 0
    assert strip_numbers(16) == [0, 3, 6, 9, 12, 15]
    assert strip_numbers(1) == [0]


@pytest.mark.parametrize(("frames", "shown"), [(1, 1), (16, 16), (64, 22)])
def test_moving_pictures_repeat_for_ever_at_the_speed_of_the_video(frames: int, shown: int) -> None:
    frames_THWC = np.random.default_rng(0).integers(0, 255, (frames, 12, 16, 3), dtype=np.uint8)
    picture = Image.open(io.BytesIO(moving_webp(frames_THWC, 50)))
    assert picture.format == "WEBP"
    assert getattr(picture, "n_frames", 1) == shown <= MOST_MOVING
    if shown > 1:
        assert picture.info["loop"] == 0


def test_stills_are_webp() -> None:
    assert still_webp(np.zeros((4, 4, 3), np.uint8))[:4] == b"RIFF"
