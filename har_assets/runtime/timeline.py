"""A long video as a timeline: what is done from when to when.

    decoding process ──batches of clips, in shared memory──► predictor ──► scores of windows ──► smoothing ──► segments

The film is cut into windows by the times at which its frames are shown, so a variable frame rate does no harm. Clips
are decoded in a process of its own while earlier ones are scored here. Memory holds some batches of clips and one
clip length of small frames, however long the film; what grows with it is one row of scores a window.

T frames, H height, W width, C channels, K classes, N windows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError
from har_assets.model.spec import ModelSpec
from har_assets.runtime.cut import Cut
from har_assets.runtime.film import BLOCKS, At, Block, Film, decode_film
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.runtime.shared_clips import SharedClips, shared_clips
from har_assets.video.workers import DecoderProcess

__all__ = ["TIMEOUT_S", "Cut", "Segment", "Timeline", "merge", "predict_timeline", "smooth"]

MAX_BLOCKS_BYTES = 192 << 20
"""All BLOCKS batches together; the batch is made smaller where it would be more."""

TIMEOUT_S = 4 * 3600.0
"""Default limit for one film."""


@dataclass(frozen=True)
class Segment:
    """One action from when to when."""

    label: str
    start_s: float
    end_s: float
    score: float
    """Mean of the label's smoothed scores over the windows of the segment."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The timeline of a film."""

    video: str
    duration_s: float
    """Until the end of the last frame that was decoded."""
    frames: int
    """Frames of the file that were decoded."""
    clips: int
    """Clips that were scored."""
    labels: tuple[str, ...]
    """Class names in index order."""
    window_s: float
    hop_s: float
    smoothing_s: float
    threshold: float
    borders_s: NDArray[np.float64]
    """float64 [N + 1], seconds: window n speaks for the time between borders n and n + 1."""
    scores_NK: Scores
    """Smoothed scores of the windows, float32."""
    segments: tuple[Segment, ...]
    """In order of time, without overlap; times in which no class reaches the threshold have none."""
    note: str = ""
    """Oddities of the file; empty where there are none."""

    def to_dict(self, *, windows: bool = False) -> dict[str, Any]:
        """JSON-ready facts and segments; `windows` adds the best class of every window. Seconds to 3 decimals."""
        facts: dict[str, Any] = {
            "video": self.video,
            "duration_s": round(self.duration_s, 3),
            "frames": self.frames,
            "clips": self.clips,
            "window_s": round(self.window_s, 3),
            "hop_s": round(self.hop_s, 3),
            "smoothing_s": round(self.smoothing_s, 3),
            "threshold": self.threshold,
            "note": self.note,
            "segments": [
                {
                    "label": one.label,
                    "start_s": round(one.start_s, 3),
                    "end_s": round(one.end_s, 3),
                    "score": round(one.score, 6),
                }
                for one in self.segments
            ],
        }
        if windows:
            best_N = self.scores_NK.argmax(axis=1)
            facts["windows"] = [
                {
                    "start_s": round(float(start_s), 3),
                    "end_s": round(float(end_s), 3),
                    "label": self.labels[best],
                    "score": round(float(scores_K[best]), 6),
                }
                for start_s, end_s, best, scores_K in zip(
                    self.borders_s[:-1], self.borders_s[1:], best_N, self.scores_NK, strict=True
                )
            ]
        return facts


def predict_timeline(
    predictor: Predictor,
    path: Path,
    *,
    window_s: float | None = None,
    hop_s: float | None = None,
    smoothing_s: float | None = None,
    threshold: float = 0.5,
    batch: int = 16,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[float, float], None] = lambda decoded_s, claimed_s: None,
) -> Timeline:
    """The actions in a film, each with its start and end.

    A model looks at `spec.clip_s` seconds, 1.07 with the defaults. A window has this length or more; a longer one is
    covered by several such clips, never by one that is played faster, and made to end with one. The frames of a clip
    are those shown at its moments, whatever the rate of the film, as in training. A window that the film's end cuts
    repeats the last frame, as training does with short clips; it is left out where less than half of it lies in the
    film.

    Args:
        predictor: called in this thread.
        path: video file; decoded once, from its start to its end, in a process of its own.
        window_s: seconds of a window; None takes one clip.
        hop_s: seconds from window to window; None takes half a window.
        smoothing_s: scores are averaged over the windows whose centres lie within so many seconds, half before,
            half after; None takes three windows, 0 leaves them as they are.
        threshold: score below which no class is named. Windows side by side of one label make a segment.
        batch: clips that are scored at once; fewer where they are large.
        timeout_s: seconds that the whole film may take.
        progress: called every second at least, with the second up to which is decoded and the length in seconds
            that the file claims to have, 0 where it does not. What it raises ends the work.

    Raises:
        VideoError: the file gives no frame, or its decoder hangs or crashes; the message is the reason. A film that
            becomes unreadable later gives a timeline until there, with a note.
        HarError: window, hop, smoothing or threshold cannot be; no shared memory for the clips.
    """
    cut = Cut.of(predictor.spec, window_s, hop_s)
    smoothing_s = 2 * cut.hop_s if smoothing_s is None else smoothing_s
    if not 0 <= smoothing_s < math.inf:
        raise HarError(f"The scores cannot be averaged over {smoothing_s:g} s: choose 0 or more.")
    if not 0 <= threshold <= 1:
        raise HarError(f"A threshold of {threshold:g} cannot be: scores lie between 0 and 1.")
    scores_NK, film = _score_film(predictor, path, cut, batch, timeout_s, progress)
    centres_N = np.minimum(np.arange(len(scores_NK)) * cut.hop_s + cut.window_s / 2, film.duration_s)
    borders_s = np.concatenate([[0.0], (centres_N[:-1] + centres_N[1:]) / 2, [film.duration_s]])
    smoothed_NK = smooth(scores_NK, max(1, 2 * math.floor(smoothing_s / 2 / cut.hop_s + 1e-6) + 1))
    labels = predictor.spec.labels
    return Timeline(
        str(path),
        film.duration_s,
        film.frames,
        film.clips,
        labels,
        cut.window_s,
        cut.hop_s,
        smoothing_s,
        threshold,
        borders_s,
        smoothed_NK,
        merge(smoothed_NK, borders_s, labels, threshold),
        film.note,
    )


def smooth(scores_NK: Scores, windows: int) -> Scores:
    """Centred mean over an odd number of windows, at the ends over those that are there: float32 [N, K]."""
    half = windows // 2
    sums_NK = np.concatenate([np.zeros((1, scores_NK.shape[1])), np.cumsum(scores_NK, axis=0, dtype=np.float64)])
    places = np.arange(len(scores_NK))
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(scores_NK))
    mean_NK: Scores = ((sums_NK[end] - sums_NK[first]) / (end - first)[:, None]).astype(np.float32)
    return mean_NK


def merge(
    scores_NK: Scores, borders_s: NDArray[np.float64], labels: tuple[str, ...], threshold: float
) -> tuple[Segment, ...]:
    """Runs of windows with the same best class, each above the threshold, as segments."""
    best_N = scores_NK.argmax(axis=1)
    above_N = scores_NK.max(axis=1) >= threshold
    segments = []
    first = 0
    for end in range(1, len(best_N) + 1):
        if end < len(best_N) and best_N[end] == best_N[first] and above_N[end] == above_N[first]:
            continue
        if above_N[first]:
            best = int(best_N[first])
            score = float(scores_NK[first:end, best].mean())
            segments.append(Segment(labels[best], float(borders_s[first]), float(borders_s[end]), score))
        first = end
    return tuple(segments)


def _score_film(
    predictor: Predictor, path: Path, cut: Cut, batch: int, timeout_s: float, progress: Callable[[float, float], None]
) -> tuple[Scores, Film]:
    """Scores of the windows, float32 [N, K], not yet smoothed, and the facts of the film."""
    spec = predictor.spec
    scores: list[Scores] = []
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(_blocks(spec, batch))
        at = At(0.0, 0.0)
        decoder = stack.enter_context(
            DecoderProcess(
                decode_film,
                path,
                spec,
                cut,
                blocks.layout,
                timeout_s=timeout_s,
                go_on=lambda: progress(at.decoded_s, at.claimed_s),
            )
        )
        while True:
            message = decoder.receive()
            if isinstance(message, At):
                at = message
                progress(at.decoded_s, at.claimed_s)
            elif isinstance(message, Block):
                scores.append(predictor.predict(blocks.clips_NBCTHW[message.index, : message.clips]))
                decoder.send(message.index)
            else:
                film: Film = message
                break
    return _window_scores(np.concatenate(scores), film.places, cut, cut.num_windows(film.duration_s)), film


def _window_scores(scores_BK: Scores, places: list[tuple[int, int]], cut: Cut, num_windows: int) -> Scores:
    """Mean over the clips of each window that there are, float32 [N, K].

    Args:
        scores_BK: of the clips that were scored.
        places: (clip, index into these).
        cut: how the film is cut.
        num_windows: N.
    """
    num_clips = cut.num_clips(num_windows)
    sums = np.zeros((num_clips + 1, scores_BK.shape[1] + 1))  # the last column counts
    for clip, index in places:
        if clip < num_clips:
            sums[clip + 1] = (*scores_BK[index], 1)
    sums = sums.cumsum(axis=0)
    first_N = np.arange(num_windows) * cut.clips_a_hop
    windows = sums[first_N + cut.clips_a_window] - sums[first_N]
    mean_NK: Scores = (windows[:, :-1] / windows[:, -1:]).astype(np.float32)
    return mean_NK


def _blocks(spec: ModelSpec, batch: int) -> contextlib.AbstractContextManager[SharedClips]:
    """Shared memory for BLOCKS batches, made smaller where clips are large."""
    fitting = MAX_BLOCKS_BYTES // (BLOCKS * math.prod(spec.clip_shape_CTHW))
    shape = (BLOCKS, max(1, min(batch, fitting)), *spec.clip_shape_CTHW)
    return shared_clips(shape, "ask for a smaller batch")
