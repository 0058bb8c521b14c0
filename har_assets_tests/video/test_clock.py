import itertools

import pytest

from har_assets.video.clock import FrameClock


def times(stamps: list[float | None], *, container: str = "matroska", start_s: float | None = 0.0) -> list[float]:
    """At 10 frames a second by the file's rate."""
    clock = FrameClock(container, start_s, 10)
    found = [clock.time_s(stamp) for stamp in stamps]
    leaps = (a is not None and b is not None and not -1 <= b - a <= 600 for a, b in itertools.pairwise(stamps))
    assert bool(clock.note) == any(leaps)
    return found


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 0.1, 0.25, 3.0], [0, 0.1, 0.25, 3.0]),
        ([5.5, 5.6], [0.5, 0.6]),  # the file starts at 5
        ([4.0, 4.1], [0, 0.1]),  # before its own start
        ([None, None, None], [0, 0.1, 0.2]),
        ([5.0, None, 5.2], [0, 0.1, 0.2]),
        ([5.0, 5.2, 5.1, 5.3], [0, 0.2, 0.2, 0.3]),  # a slip
        ([5.0, 5.1, 1.0, 1.1], [0, 0.1, 0.2, 0.3]),  # two films put together
        ([5.0, 5.1, 1e9, 1e9 + 0.1], [0, 0.1, 0.2, 0.3]),  # a broken time stamp
    ],
)
def test_times_start_at_the_start_and_never_go_back(stamps: list[float | None], expected: list[float]) -> None:
    start_s = 5.0 if stamps[0] else 0.0
    assert times(stamps, start_s=start_s) == pytest.approx(expected)


def test_a_file_that_does_not_say_where_it_starts_starts_with_its_first_frame() -> None:
    assert times([7.0, 7.1], start_s=None) == pytest.approx([0, 0.1])


def test_the_delay_of_b_frames_in_an_avi_is_closed_and_no_other() -> None:
    assert times([0, 0.3, 0.4, 0.7], container="avi") == pytest.approx([0, 0.1, 0.2, 0.5])
    assert times([0, 0.3, 0.4], container="mov,mp4") == pytest.approx([0, 0.3, 0.4])
    assert times([0, 5.0, 5.1], container="avi") == pytest.approx([0, 5.0, 5.1])
    assert times([0.2, 0.3, 0.4], container="avi") == pytest.approx([0, 0.1, 0.2])
    assert times([0.9, 1.0], container="avi") == pytest.approx([0.9, 1.0])  # the first frames are lost


def test_without_a_rate_there_is_one() -> None:
    clock = FrameClock("mpegvideo", None, 0.0)
    assert [clock.time_s(None), clock.time_s(None)] == [0, 0.04]
