import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from har_assets.video.sampling import centre_crop, clip_windows, take_window, to_clip_CTHW, window_starts


def numbered_frames(num_frames: int, height: int = 6, width: int = 8) -> np.ndarray:
    """Frames that hold their own number, rows in channel 1 and columns in channel 2."""
    frames_THWC = np.zeros((num_frames, height, width, 3), np.uint8)
    frames_THWC[..., 0] = np.arange(num_frames)[:, None, None]
    frames_THWC[..., 1] = np.arange(height)[:, None]
    frames_THWC[..., 2] = np.arange(width)
    return frames_THWC


@pytest.mark.parametrize(
    ("num_frames", "window", "count", "starts"),
    [
        (100, 16, 1, [42]),
        (100, 16, 2, [0, 84]),
        (100, 16, 3, [0, 42, 84]),
        (16, 16, 3, [0, 0, 0]),
        (10, 16, 1, [0]),
        (10, 16, 2, [0, 0]),
        (17, 16, 1, [0]),
        (1, 1, 1, [0]),
    ],
)
def test_window_starts(num_frames: int, window: int, count: int, starts: list[int]) -> None:
    assert window_starts(num_frames, window, count) == starts


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 12))
def test_windows_lie_in_the_clip_and_rise(num_frames: int, window: int, count: int) -> None:
    starts = window_starts(num_frames, window, count)
    assert len(starts) == count
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] + window <= max(num_frames, window)
    assert len(take_window(numbered_frames(num_frames % 256 or 1, 1, 1), 0, window)) == window


@pytest.mark.parametrize("wrong", [(0, 16, 1), (16, 0, 1), (16, 16, 0)])
def test_window_starts_refuses_nothing(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(*wrong)


def test_short_clip_repeats_its_last_frame() -> None:
    taken = take_window(numbered_frames(5), 0, 8)
    assert taken[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert take_window(numbered_frames(5), 3, 4)[:, 0, 0, 0].tolist() == [3, 4, 4, 4]


def test_long_clip_is_not_copied() -> None:
    frames_THWC = numbered_frames(20)
    taken = take_window(frames_THWC, 4, 8)
    assert taken[:, 0, 0, 0].tolist() == list(range(4, 12))
    assert np.shares_memory(taken, frames_THWC)


@pytest.mark.parametrize("start", [-1, 5])
def test_start_outside_the_clip(start: int) -> None:
    with pytest.raises(ValueError, match="cannot start"):
        take_window(numbered_frames(5), start, 2)


def test_centre_crop() -> None:
    cropped = centre_crop(numbered_frames(2, 6, 9), (4, 4))
    assert cropped[0, :, 0, 1].tolist() == [1, 2, 3, 4]
    assert cropped[0, 0, :, 2].tolist() == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="no crop"):
        centre_crop(numbered_frames(2, 6, 9), (7, 4))


def test_clip_windows_are_the_steps_one_by_one() -> None:
    frames_THWC = numbered_frames(30)
    clips_BCTHW = clip_windows(frames_THWC, window=8, count=3, crop=(4, 5))
    assert clips_BCTHW.shape == (3, 3, 8, 4, 5)
    assert clips_BCTHW.dtype == np.uint8
    assert clips_BCTHW.flags.c_contiguous
    for start, clip_CTHW in zip(window_starts(30, 8, 3), clips_BCTHW, strict=True):
        expected = to_clip_CTHW(centre_crop(take_window(frames_THWC, start, 8), (4, 5)))
        assert expected.flags.c_contiguous
        assert np.array_equal(clip_CTHW, expected)
