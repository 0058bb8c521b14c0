"""When a frame is shown, from what its file says: seconds that start at the file's start and never go back."""

MAX_GAP_S = 600.0
"""Longest pause between two frames that is believed, such as a slide that stands still. More is a broken time stamp."""

MAX_STEP_BACK_S = 1.0
"""A time stamp that goes back by no more is a slip of the file; by more, its count starts again."""

MAX_AVI_DELAY = 3.5
"""Frames that an AVI may seem to lack at its start, see `FrameClock`."""

FALLBACK_FPS = 25.0
"""Where a file has neither time stamps nor a rate."""


class FrameClock:
    """Mends the presentation times of one video, asked frame by frame in the order of presentation.

    * A frame without a time stamp comes one frame interval after the one before it.
    * Time stamps that start again (films put together, MPEG-TS that wraps) or leap go on from where they were.
    * An AVI has no presentation times. What FFmpeg makes up for one with B-frames jumps back and forth, so the packet
      count at which a frame came out of the decoder is asked for (`takes_packet_times`). It is regular, but starts one
      to three frames late, or has such a gap after the first frame: both are closed.
    """

    def __init__(self, container: str, start_s: float | None, fps: float) -> None:
        self.interval_s = 1 / (fps if fps > 0 else FALLBACK_FPS)
        """Seconds between two frames, by the file's rate."""
        self.note = ""
        """Empty, or what had to be mended."""
        self.takes_packet_times = container == "avi"
        """The time stamps have to be those of the packets (dts), not those of the frames (pts)."""
        self._start_s = start_s
        self._offset_s = 0.0
        self._shown_s: list[float] = []  # of the last two frames

    def time_s(self, stamp_s: float | None) -> float:
        """Seconds from the file's start at which the next frame is shown, for its time stamp or None."""
        if not self._shown_s:
            return self._first(stamp_s)
        last_s = self._shown_s[-1]
        regular_s = last_s + self.interval_s
        if stamp_s is None:
            shown_s = regular_s
        else:
            shown_s = stamp_s + self._offset_s
            gap_s = shown_s - last_s
            delayed = len(self._shown_s) == 1 and self._is_delay(gap_s)
            leaps = not -MAX_STEP_BACK_S <= gap_s <= MAX_GAP_S
            if leaps:
                self.note = "its time stamps leap; they are taken to go on"
            if delayed or leaps:
                self._offset_s += regular_s - shown_s
                shown_s = regular_s
        self._shown_s = [last_s, max(shown_s, last_s)]
        return self._shown_s[-1]

    def _is_delay(self, gap_s: float) -> bool:
        return self.takes_packet_times and 0 < gap_s <= MAX_AVI_DELAY * self.interval_s

    def _first(self, stamp_s: float | None) -> float:
        if stamp_s is None:
            shown_s = 0.0
        else:
            start_s = stamp_s if self._start_s is None else self._start_s
            shown_s = stamp_s - start_s
            if not 0 <= shown_s <= MAX_GAP_S or self._is_delay(shown_s):
                shown_s = 0.0
            self._offset_s = shown_s - stamp_s
        self._shown_s = [shown_s]
        return shown_s
