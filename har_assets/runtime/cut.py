"""How a film is cut into windows, and these into clips: arithmetic of seconds, without a decoder or a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from har_assets.errors import HarError
from har_assets.model.spec import ModelSpec

MAX_CLIPS = 500_000
"""Most clips of one film: 69 hours at half a second. A file that claims more is damaged, or wants a longer hop."""


@dataclass(frozen=True)
class Cut:
    """How a film is cut into windows and these into clips; all in seconds.

    A clip is what the model was trained on: `num_frames` frames, one a step of its sampling. Clips start at whole
    multiples of `spacing_s`, and a window has the mean of the scores of those that lie in it: windows that overlap
    share them, so a longer window costs no more.
    """

    window_s: float
    """From the start of a window's first clip to the end of its last."""
    hop_s: float
    spacing_s: float
    """From clip to clip: the hop, or the largest part of it that leaves no gap between clips."""
    clips_a_hop: int
    clips_a_window: int
    step_s: float
    """Between the frames of a clip."""
    num_frames: int
    """T."""
    slack_s: float
    """A frame that is shown so little after a clip's time is that time's frame: files round their times."""
    max_clips: int
    """Most clips of one film."""

    @classmethod
    def of(cls, spec: ModelSpec, window_s: float | None, hop_s: float | None) -> Cut:
        """Defaults filled in, the window made of whole clips; HarError for what the model cannot look at."""
        clip_s = spec.clip_s
        window_s = clip_s if window_s is None else window_s
        if not window_s > clip_s - 0.005:  # 1.07 means 16/15
            raise HarError(
                f"A window of {window_s:g} s is shorter than the {clip_s:.2f} s that this model looks at "
                f"({spec.num_frames} of {spec.num_frames * spec.frame_stride} frames, {spec.fps:g} a second): "
                f"choose {clip_s:.2f} or more."
            )
        hop_s = max(window_s, clip_s) / 2 if hop_s is None else hop_s
        if not 0 < hop_s < math.inf or window_s == math.inf:
            raise HarError(f"A window of {window_s:g} s every {hop_s:g} s cannot be: choose more than 0 seconds.")
        clips_a_hop = math.ceil(hop_s / clip_s - 1e-6)
        spacing_s = hop_s / clips_a_hop
        more_clips = max(0, round((window_s - clip_s) / spacing_s))
        window_s = clip_s + more_clips * spacing_s
        return cls(
            window_s,
            hop_s,
            spacing_s,
            clips_a_hop,
            1 + more_clips,
            spec.sampling.step_s,
            spec.num_frames,
            spec.sampling.slack_s,
            MAX_CLIPS,
        )

    def sample_time(self, clip: int, number: int) -> float:
        """The moment of a clip's frame, slack included."""
        return clip * self.spacing_s + number * self.step_s + self.slack_s

    def num_windows(self, duration_s: float) -> int:
        """Windows of a film: all that lie in it at least by half, and the first."""
        return max(1, math.floor((duration_s - self.window_s / 2) / self.hop_s + 1e-6) + 1)

    def is_wanted(self, clip: int) -> bool:
        """Whether a window holds it: with hops longer than windows there is time between them."""
        return clip % self.clips_a_hop < self.clips_a_window

    def num_clips(self, num_windows: int) -> int:
        """One more than the number of the last clip of so many windows."""
        return (num_windows - 1) * self.clips_a_hop + self.clips_a_window
