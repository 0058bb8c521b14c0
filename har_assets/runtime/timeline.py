"""A long video as a timeline: what is done from when to when.

    decoding process ──batches of clips, in shared memory──► predictor ──► scores of windows ──► smoothing ──► segments

The film is cut into windows by the times at which its frames are shown, so a variable frame rate does no harm. Clips
are decoded in a process of its own while earlier ones are scored here. Memory holds some batches of clips and one
clip length of small frames, however long the film; what grows with it is one row of scores a window.

T frames, H height, W width, C channels, K classes, N windows.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError, VideoError
from har_assets.model.spec import ModelSpec
from har_assets.runtime.predictor import Clips, Predictor, Scores
from har_assets.runtime.shared_clips import Layout, SharedClips, shared_clips
from har_assets.runtime.video import cropped_CHW
from har_assets.video.decode import VideoReader
from har_assets.video.sampling import Frames
from har_assets.video.workers import DecoderProcess, available_cores

CLIP_FPS = 30.0
"""Frames a second of the videos that models learn from: all of HMDB51's, and the sample's."""

BLOCKS = 3
"""Batches in shared memory: one is scored, one waits, one is filled."""

MAX_BLOCKS_BYTES = 192 << 20
"""All of them together; the batch is made smaller where it would be more."""

MAX_CLIPS = 500_000
"""Of one film: 69 hours at half a second. A file that claims more is damaged, or wants a longer hop."""

MAX_DECODER_THREADS = 4
"""One core is left to the model. Each thread holds some whole frames."""

TIMEOUT_S = 4 * 3600.0
"""Default limit for one film."""

REPORT_EVERY_S = 0.5
"""How often the decoding process says where it is."""


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
    """What happens in a film."""

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
    """What is odd about the file; empty where nothing is."""

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


@dataclass(frozen=True)
class Cut:
    """How a film is cut into windows and these into clips; all in seconds.

    A clip is what the model was trained on: `num_frames` frames, `frame_stride` frames of a 30-frame-a-second video
    apart. Clips start at whole multiples of `spacing_s`, and a window has the mean of the scores of those that lie in
    it: windows that overlap share them, so a longer window costs no more.
    """

    window_s: float
    """From the start of a window's first clip to the end of its last."""
    hop_s: float
    clip_s: float
    """num_frames x frame_stride / clip_fps."""
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
    """Of one film."""

    @classmethod
    def of(cls, spec: ModelSpec, window_s: float | None, hop_s: float | None, clip_fps: float) -> Cut:
        """Defaults filled in, the window made of whole clips; HarError for what the model cannot look at."""
        if not 0 < clip_fps < math.inf:
            raise HarError(f"The rate of the videos the model learned from is {clip_fps:g}: choose more than 0.")
        step_s = spec.frame_stride / clip_fps
        clip_s = spec.num_frames * step_s
        window_s = clip_s if window_s is None else window_s
        if not window_s > clip_s - 0.005:  # 1.07 means 16/15
            raise HarError(
                f"A window of {window_s:g} s is shorter than the {clip_s:.2f} s that this model looks at "
                f"({spec.num_frames} of {spec.num_frames * spec.frame_stride} frames, {clip_fps:g} a second): "
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
            clip_s,
            spacing_s,
            clips_a_hop,
            1 + more_clips,
            step_s,
            spec.num_frames,
            0.25 / clip_fps,
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


def predict_timeline(
    predictor: Predictor,
    path: Path,
    *,
    window_s: float | None = None,
    hop_s: float | None = None,
    smoothing_s: float | None = None,
    threshold: float = 0.5,
    clip_fps: float = CLIP_FPS,
    batch: int = 16,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[float, float], None] = lambda decoded_s, claimed_s: None,
) -> Timeline:
    """What happens in a film, from when to when.

    A model looks at `num_frames` frames, `frame_stride` frames apart, of videos of `clip_fps` frames a second:
    `num_frames x frame_stride / clip_fps` seconds, 1.07 with the defaults. A window has this length or more; a
    longer one is covered by several such clips, never by one that is played faster, and made to end with one. The
    frames of a clip are those
    shown at its moments, whatever the rate of the film: of a film of `clip_fps` they are every `frame_stride`-th, as
    in training. A window that the film's end cuts repeats the last frame, as training does with short clips; it is
    left out where less than half of it lies in the film.

    Args:
        predictor: called in this thread.
        path: video file; decoded once, from its start to its end, in a process of its own.
        window_s: seconds of a window; None takes one clip.
        hop_s: seconds from window to window; None takes half a window.
        smoothing_s: scores are averaged over the windows whose centres lie within so many seconds, half before,
            half after; None takes three windows, 0 leaves them as they are.
        threshold: score below which no class is named. Windows side by side of one label make a segment.
        clip_fps: frames a second of the videos that the model learned from; no model file says it.
        batch: clips that are scored at once; fewer where they are large.
        timeout_s: seconds that the whole film may take.
        progress: called every second at least, with the second up to which is decoded and the length in seconds
            that the file claims to have, 0 where it does not. What it raises ends the work.

    Raises:
        VideoError: the file gives no frame, or its decoder hangs or crashes; the message is the reason. A film that
            becomes unreadable later gives a timeline until there, with a note.
        HarError: window, hop, smoothing or threshold cannot be; no shared memory for the clips.
    """
    cut = Cut.of(predictor.spec, window_s, hop_s, clip_fps)
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


# ------------------------------------------------------------------------------- the process that scores
@dataclass(frozen=True)
class _At:
    """From the decoding process: it is alive, and so far."""

    decoded_s: float
    claimed_s: float


@dataclass(frozen=True)
class _Block:
    """From the decoding process: a block of clips is full, or is the last."""

    index: int
    clips: int


@dataclass(frozen=True)
class _Film:
    """From the decoding process: the end."""

    duration_s: float
    frames: int
    clips: int
    note: str
    places: list[tuple[int, int]]
    """(number in the film, number among those that were written) of each clip."""


def _score_film(
    predictor: Predictor, path: Path, cut: Cut, batch: int, timeout_s: float, progress: Callable[[float, float], None]
) -> tuple[Scores, _Film]:
    """Scores of the windows, float32 [N, K], not yet smoothed, and the facts of the film."""
    spec = predictor.spec
    scores: list[Scores] = []
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(_blocks(spec, batch))
        at = _At(0.0, 0.0)
        decoder = stack.enter_context(
            DecoderProcess(
                _decode_film,
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
            if isinstance(message, _At):
                at = message
                progress(at.decoded_s, at.claimed_s)
            elif isinstance(message, _Block):
                scores.append(predictor.predict(blocks.clips_NBCTHW[message.index, : message.clips]))
                decoder.send(message.index)
            else:
                film: _Film = message
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


# ------------------------------------------------------------------------------ the process that decodes
def _decode_film(connection: Connection, path: Path, spec: ModelSpec, cut: Cut, layout: Layout) -> None:
    """Read the film once and send its clips, block by block."""
    memory = shared_memory.SharedMemory(name=layout.name)  # of the process that made it, which alone removes it
    clips = _Clips(cut, (spec.frame_height, spec.frame_width), _Writer(connection, layout.view(memory)))
    reader = VideoReader(path, size=(spec.decode_height, spec.decode_width))
    said = time.monotonic()
    frames = reader.timed(threads=max(1, min(MAX_DECODER_THREADS, available_cores() - 1)))
    shown_s, picture = next(frames)
    for until_s, upcoming in frames:
        clips.frame(picture, until_s)
        shown_s, picture = until_s, upcoming
        if time.monotonic() - said >= REPORT_EVERY_S:
            said = time.monotonic()
            connection.send(_At(shown_s, reader.claimed_s))
    duration_s = shown_s + (1 / reader.fps if reader.fps > 0 else cut.step_s)
    clips.end(picture, duration_s)
    connection.send(_Film(duration_s, reader.num_source_frames, clips.writer.clips, reader.note, clips.places))


@dataclass
class _Writer:
    """Puts clips into blocks, which it sends when they are full and waits for when none is free."""

    connection: Connection
    clips_NBCTHW: Clips
    clips: int = 0
    """Written so far."""
    free: list[int] = field(default_factory=lambda: list(range(BLOCKS)))
    filled: int = 0
    """Clips in the block at hand, `free[0]`."""

    def write(self, frames: list[Frames]) -> int:
        """Number of the clip made of these frames, each [3, H, W]."""
        if not self.free:
            self.free.append(self.connection.recv())
        np.stack(frames, axis=1, out=self.clips_NBCTHW[self.free[0], self.filled])
        self.filled += 1
        self.clips += 1
        if self.filled == self.clips_NBCTHW.shape[1]:
            self.flush()
        return self.clips - 1

    def flush(self) -> None:
        """Send what is there."""
        if self.filled:
            self.connection.send(_Block(self.free.pop(0), self.filled))
            self.filled = 0


@dataclass(order=True)
class _Clip:
    """One that has begun or comes next; in the order of the moments of their next frames."""

    wants_s: float
    number: int
    frames: list[Frames] = field(default_factory=list, compare=False)
    """Each [3, H, W]."""
    numbers: list[int] = field(default_factory=list, compare=False)
    """Of these frames in the film."""


@dataclass
class _Clips:
    """Frames in the order of time to clips. Only those that some clip holds are scaled, once each."""

    cut: Cut
    crop: tuple[int, int]
    """(height, width) of a clip's frames."""
    writer: _Writer
    places: list[tuple[int, int]] = field(default_factory=list)
    """(number of the clip, what the writer calls it)."""
    pending: list[_Clip] = field(default_factory=list)
    """A heap."""
    begun: int = 0
    """Number of the next clip that is not in the heap yet."""
    frames: int = 0
    """Seen so far."""
    last: tuple[tuple[int, ...], int] = ((), -1)
    """Frame numbers and name of the clip written last: where a picture stands still the next is the same."""

    def frame(self, picture: Callable[[], Frames], until_s: float) -> None:
        """The next frame of the film, shown until `until_s`."""
        cropped: Frames | None = None
        while True:
            while not self.pending or self.cut.sample_time(self.begun, 0) <= self.pending[0].wants_s:
                self._begin()
            clip = self.pending[0]
            if clip.wants_s >= until_s:
                break
            if cropped is None:
                cropped = cropped_CHW(picture(), self.crop)
            clip.frames.append(cropped)
            clip.numbers.append(self.frames)
            if len(clip.frames) < self.cut.num_frames:
                clip.wants_s = self.cut.sample_time(clip.number, len(clip.frames))
                heapq.heapreplace(self.pending, clip)
            else:
                self._finish(heapq.heappop(self.pending))
        self.frames += 1

    def end(self, picture: Callable[[], Frames], duration_s: float) -> None:
        """The last frame of the film; it is repeated in the clips that have begun."""
        self.frame(picture, duration_s + self.cut.slack_s)
        num_clips = self.cut.num_clips(self.cut.num_windows(duration_s))
        for clip in sorted(self.pending, key=lambda clip: clip.number):
            if clip.frames and clip.number < num_clips:
                missing = self.cut.num_frames - len(clip.frames)
                clip.frames += clip.frames[-1:] * missing
                clip.numbers += clip.numbers[-1:] * missing
                self._finish(clip)
        self.writer.flush()

    def _begin(self) -> None:
        if self.begun >= self.cut.max_clips:
            raise VideoError(
                f"it would be more than {self.cut.max_clips:,} clips: its time stamps are damaged, or it wants a "
                "longer hop"
            )
        if self.cut.is_wanted(self.begun):
            heapq.heappush(self.pending, _Clip(self.cut.sample_time(self.begun, 0), self.begun))
        self.begun += 1

    def _finish(self, clip: _Clip) -> None:
        numbers = tuple(clip.numbers)
        if numbers != self.last[0]:
            self.last = numbers, self.writer.write(clip.frames)
        self.places.append((clip.number, self.last[1]))
