"""From video files to labelled scores: one file, or any number with decoding and inference at the same time.

    decoding processes ──windows, in shared memory──► batches over several videos ──► predictor, in a thread
                                                                                         │
                              predictions in the order of the paths ◄────────────────────┘

T frames, H height, W width, C channels, B windows, K classes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np

from har_assets.errors import VideoError
from har_assets.model.spec import ModelSpec
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.runtime.shared_clips import Layout, SharedClips, shared_clips
from har_assets.runtime.windows import (
    PICTURES,
    ReadLimits,
    TooLongError,
    Windows,
    contact_sheet,
    cropped_CHW,
    film_sheet,
    read_windows,
    video_clips,
)
from har_assets.video.sampling import Clips
from har_assets.video.workers import available_cores, decode_many

__all__ = [
    "ReadLimits",
    "TooLongError",
    "VideoFailure",
    "VideoPrediction",
    "Windows",
    "contact_sheet",
    "cropped_CHW",
    "film_sheet",
    "predict_video",
    "predict_videos",
    "ranked",
    "read_windows",
    "video_clips",
]

AHEAD = 16
"""Videos a worker that may be decoded or scored ahead of the oldest unfinished one."""


@dataclass(frozen=True)
class VideoPrediction:
    """Scores of one video, the mean over its windows, highest first."""

    video: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    windows: int
    frames: int
    """Frames of the file that were decoded."""
    note: str = ""
    """Oddities of the file; empty where there are none."""
    decode_s: float = 0.0
    """Seconds that decoding took, in its own process."""
    inference_s: float = 0.0
    """Seconds of inference: of its batch, divided by the videos in it."""
    contact_sheet: bytes = b""
    """JPEG of some of its frames, if asked for."""


@dataclass(frozen=True)
class VideoFailure:
    """A video without a prediction."""

    video: str
    reason: str
    too_long: bool = False
    """It was not decoded, as it claims to be longer than `longest_s`."""


def predict_video(predictor: Predictor, path: Path, *, windows: int = 4, top: int = 5) -> VideoPrediction:
    """The `top` most likely classes of a video file, decoded in this process.

    `windows` clips, spread evenly over the video, are scored and averaged. Raises VideoError with the
    reason for a file that yields no frames.
    """
    read = read_windows(path, predictor.spec, windows)
    scores_K = predictor.predict(read.clips_BCTHW).mean(axis=0)
    return _prediction(path, scores_K, predictor.spec, _Facts(read.num_source_frames, read.note), windows, top)


def predict_videos(
    predictor: Predictor,
    paths: Iterable[Path],
    *,
    windows: int = 4,
    top: int = 5,
    batch: int = 16,
    workers: int | None = None,
    timeout_s: float = 120,
    contact_sheets: bool = False,
    longest_s: float = math.inf,
    done: Callable[[], None] = lambda: None,
    go_on: Callable[[], None] = lambda: None,
) -> Iterator[VideoPrediction | VideoFailure]:
    """Predict any number of videos; yield one result each, in the order of the paths.

    Decoding of the next videos in processes of their own overlaps inference of these; windows of several
    videos are scored as one batch. A file that breaks its decoder, hangs it or takes it down costs that file
    only. Memory is bounded for any number and length of files: some windows of
    `2 workers + 3 batches` videos in shared memory, and windows.MAX_HELD_BYTES a worker.

    Args:
        predictor: called from one thread of its own.
        paths: video files, taken lazily.
        windows: clips a video, spread evenly over it; their scores are averaged.
        top: classes to return.
        batch: windows that are scored at once, rounded down to whole videos (one at least).
        workers: decoding processes; None takes one a core.
        timeout_s: seconds that one video may take to be decoded.
        contact_sheets: also make a contact sheet of each video, from the frames that are decoded anyway.
        longest_s: seconds; a video that claims to be longer is a VideoFailure that says so, and costs no decoding.
        done: called after each video that is done, which may be ahead of the results.
        go_on: called every second while videos are decoded; what it raises ends the work.

    Raises:
        HarError: something that concerns all videos: no memory for the windows, workers that do not run.
    """
    workers = workers or available_cores()
    videos_a_batch = max(1, batch // windows)
    # Running or waiting for a worker; gathered for the next batch; waiting for or under inference.
    num_slots = 2 * workers + 3 * videos_a_batch
    with contextlib.ExitStack() as stack:
        slots = stack.enter_context(_Slots.create(predictor.spec, windows, num_slots))
        thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="inference"))
        jobs: dict[int, _Job] = {}

        def tasks() -> Iterator[_Task]:
            for position, path in enumerate(paths):
                jobs[position] = _Job(Path(path), slots.take())
                yield _Task(jobs[position].path, jobs[position].slot)

        pictures = PICTURES if contact_sheets else 0
        function = functools.partial(_decode_into_slot, slots.layout, predictor.spec, pictures, longest_s)
        decoded = stack.enter_context(
            contextlib.closing(
                decode_many(
                    tasks(), function, workers=workers, timeout_s=timeout_s, in_flight=AHEAD * workers, go_on=go_on
                )
            )
        )
        flow = _Flow(predictor, slots, jobs, thread, videos_a_batch, windows, top, done)
        for position, facts in decoded:
            flow.take(position, facts)
            yield from flow.ready()
        flow.finish()
        yield from flow.ready()


@dataclass(frozen=True)
class _Task:
    """The message to a decoding process."""

    path: Path
    slot: int


@dataclass(frozen=True)
class _Facts:
    """The facts that a decoding process finds of a video, besides its windows."""

    num_source_frames: int
    note: str
    decode_s: float = 0.0
    contact_sheet: bytes = b""


@dataclass
class _Job:
    """A video on its way."""

    path: Path
    slot: int
    facts: _Facts | None = None
    result: VideoPrediction | VideoFailure | None = None


@dataclass
class _Flow:
    """From decoded windows to results in order. Only the predictor runs in another thread."""

    predictor: Predictor
    slots: _Slots
    jobs: dict[int, _Job]
    thread: ThreadPoolExecutor
    videos_a_batch: int
    windows: int
    top: int
    done: Callable[[], None]
    gathered: list[int] = field(default_factory=list)
    """Positions decoded and not yet on their way to the predictor."""
    running: list[tuple[list[int], Future[tuple[Scores, float]]]] = field(default_factory=list)
    """Batches under inference or waiting for it, oldest first; two at most."""
    next: int = 0
    """Position of the next result."""

    def take(self, position: int, facts: _Facts | VideoError) -> None:
        """One more video is decoded, or will not be."""
        job = self.jobs[position]
        if isinstance(facts, VideoError):
            job.result = VideoFailure(str(job.path), str(facts), isinstance(facts, TooLongError))
            self.slots.give_back(job.slot)
            self.done()
            return
        job.facts = facts
        self.gathered.append(position)
        if len(self.gathered) == self.videos_a_batch:
            self._submit()

    def finish(self) -> None:
        """No more videos come."""
        if self.gathered:
            self._submit()
        while self.running:
            self._collect()

    def ready(self) -> Iterator[VideoPrediction | VideoFailure]:
        """Results whose turn it is."""
        while self.running and self.running[0][1].done():
            self._collect()
        while self.next in self.jobs and (result := self.jobs[self.next].result) is not None:
            del self.jobs[self.next]
            self.next += 1
            yield result

    def _submit(self) -> None:
        while len(self.running) == 2:
            self._collect()
        positions, self.gathered = self.gathered, []
        chosen = [self.jobs[position].slot for position in positions]
        self.running.append((positions, self.thread.submit(self._score, chosen)))

    def _score(self, chosen: list[int]) -> tuple[Scores, float]:
        """Scores of each video, the mean of its windows, and seconds a video."""
        began = time.perf_counter()
        clips = self.slots.windows_NBCTHW[chosen]
        scores_BK = self.predictor.predict(clips.reshape(-1, *clips.shape[2:]))
        mean_NK: Scores = scores_BK.reshape(len(chosen), self.windows, -1).mean(axis=1)
        return mean_NK, (time.perf_counter() - began) / len(chosen)

    def _collect(self) -> None:
        positions, future = self.running.pop(0)
        scores_NK, seconds = future.result()
        for position, scores_K in zip(positions, scores_NK, strict=True):
            job = self.jobs[position]
            assert job.facts is not None
            job.result = _prediction(
                job.path, scores_K, self.predictor.spec, job.facts, self.windows, self.top, seconds
            )
            self.slots.give_back(job.slot)
            self.done()


class _Slots:
    """Windows of some videos in shared memory."""

    def __init__(self, shared: SharedClips) -> None:
        self._shared = shared
        self._free = list(range(shared.layout.shape[0]))

    @classmethod
    @contextlib.contextmanager
    def create(cls, spec: ModelSpec, windows: int, count: int) -> Iterator[_Slots]:
        """`count` slots of `windows` clips each, removed at the end."""
        with shared_clips(
            (count, windows, *spec.clip_shape_CTHW), "ask for fewer windows or a smaller batch"
        ) as shared:
            yield cls(shared)

    @property
    def layout(self) -> Layout:
        """Name and shape of the shared memory, for the decoding processes."""
        return self._shared.layout

    @property
    def windows_NBCTHW(self) -> Clips:
        """uint8 [slots, windows, 3, T, H, W]."""
        return self._shared.clips_NBCTHW

    def take(self) -> int:
        """A free slot; there always is one when a task is asked for."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """The slot may be written again."""
        self._free.append(slot)


def _decode_into_slot(layout: Layout, spec: ModelSpec, sheet_frames: int, longest_s: float, task: _Task) -> _Facts:
    """In a decoding process: write the windows of a video into its slot; return what else is known of it."""
    began = time.perf_counter()
    read = read_windows(task.path, spec, layout.shape[1], sheet_frames=sheet_frames, longest_s=longest_s)
    layout.view(_attached(layout.name))[task.slot] = read.clips_BCTHW
    sheet = contact_sheet(read.sheet_frames)
    return _Facts(read.num_source_frames, read.note, time.perf_counter() - began, sheet)


@functools.cache
def _attached(name: str) -> shared_memory.SharedMemory:
    """The shared memory of the process that made it, which alone removes it."""
    return shared_memory.SharedMemory(name=name)


def _prediction(
    path: Path, scores_K: Scores, spec: ModelSpec, facts: _Facts, windows: int, top: int, inference_s: float = 0.0
) -> VideoPrediction:
    labels, scores = ranked(scores_K, spec.labels, top)
    return VideoPrediction(
        str(path),
        labels,
        scores,
        windows,
        facts.num_source_frames,
        facts.note,
        facts.decode_s,
        inference_s,
        facts.contact_sheet,
    )


def ranked(scores_K: Scores, labels: tuple[str, ...], top: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The `top` labels and scores, highest first; equal scores in index order."""
    order = np.argsort(-scores_K, kind="stable")[:top]
    return tuple(labels[index] for index in order), tuple(float(scores_K[index]) for index in order)
