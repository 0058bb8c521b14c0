"""One run over new videos: each is predicted once by its content, its result written, what became of it noted.

    wanted ──► read, hashed ──► known? ──► its result under this name
                                  │
                                  └──no──► predicted, the films after all others ──► a result of each equal video

A video that cannot be decoded gets a result that says why, and is tried again when it is asked for again.
"""

import contextlib
import itertools
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import VideoError
from har_assets.incoming.folder import GoneError, LocalVideo, Videos, Wanted, printable
from har_assets.incoming.options import IncomingOptions
from har_assets.incoming.results import TOP, Results
from har_assets.store.record import Artifact
from har_assets.system.files import written_whole

if TYPE_CHECKING:
    from har_assets.runtime import Predictor
    from har_assets.runtime.video import VideoFailure, VideoPrediction


@dataclass(frozen=True)
class LeftOut:
    """A video that got no result in this run."""

    partition: str
    reason: str


@dataclass(frozen=True)
class Given:
    """A video that got a result."""

    fields: dict[str, Any]
    """All of the result."""
    path: Path
    """File of the result."""
    known: bool
    """It had been predicted before."""


Outcome = LeftOut | Given


@dataclass(frozen=True)
class _Video:
    """A video on its way."""

    partition: str
    local: LocalVideo


@dataclass
class IncomingRun:
    """One run over some videos."""

    results: Results
    onnx: Artifact
    """The published model."""
    file_name: str
    """The file in it that predicts."""
    precision: str
    """Number format of that file."""
    options: IncomingOptions
    videos: Videos
    force: bool = False
    """Predict what was predicted before, too."""
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("predicted", "without a prediction", "known before", "gone or changing"), 0
        )
    )
    waiting: "deque[_Video]" = field(default_factory=deque)
    """Given to the predictor, in order."""
    same: dict[str, list[_Video]] = field(default_factory=dict)
    """Content that the predictor has: further videos with that content."""
    films: list[_Video] = field(default_factory=list)
    """Long videos, which come after all others."""
    spec: dict[str, Any] = field(default_factory=dict)
    """The model's spec, JSON-ready; known when it is open."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Nobody wants the rest."""
    tried: set[str] = field(default_factory=set)
    """Content that the predictor had."""
    again: list[_Video] = field(default_factory=list)
    """Copies of a video that changed while it was read; one of these has to be predicted instead."""

    def predict(self, wanted: list[tuple[str, bytes | None]], note: Callable[[Outcome], None]) -> None:
        """Predict partitions, each with the name of its video or None where it is gone; note what became of each."""
        left: Wanted = deque()
        for partition, name in wanted:
            if name is None:
                note(self._left(partition, f"its video is gone from {self.videos.address}"))
            else:
                left.append((partition, name))
        predictor: Predictor | None = None
        while left:  # more than once where copies of all of them do not find room together
            unknown = self._unknown(left, note)
            first = next(unknown, None)
            if first is None:
                continue
            from har_assets.runtime import open_model

            predictor = predictor or open_model(self.onnx.file(self.file_name), self.options.runtime)
            self.spec = self.spec or json.loads(predictor.spec.to_json())
            self._predict(predictor, itertools.chain([first], unknown), note)
        while self.again:
            assert predictor is not None
            again, self.again = self.again, []
            self._predict(predictor, (video for video in again if self._is_first(video)), note)

    def _predict(self, predictor: "Predictor", videos: Iterator[_Video], note: Callable[[Outcome], None]) -> None:
        """Predict videos, the films among them after all others."""
        from har_assets.runtime.video import VideoFailure, VideoPrediction, predict_videos

        def paths() -> Iterator[Path]:
            for video in videos:
                self.waiting.append(video)
                yield video.local.path

        for found in predict_videos(
            predictor,
            paths(),
            windows=self.options.windows,
            top=TOP,
            batch=self.options.batch,
            workers=self.options.workers or None,
            timeout_s=self.options.timeout_s,
            contact_sheets=True,
            longest_s=self.options.film_from_s or math.inf,
            go_on=self._go_on,
        ):
            video = self.waiting.popleft()
            if isinstance(found, VideoFailure) and found.too_long:
                self.videos.release(video.local)
                self.films.append(video)
                continue
            sheet = found.contact_sheet if isinstance(found, VideoPrediction) else b""
            self._keep(video, predictor.runtime, _says(found), sheet, note)
        films, self.films = self.films, []
        for video in films:
            try:
                path = self.videos.read_again(video.local)
            except (GoneError, VideoError) as error:
                for left in (video, *self.same.pop(video.local.content)):
                    note(self._left(left.partition, str(error)))
                continue
            says, sheet = predict_film(predictor, path, self.options.film_timeout_s, self._go_on)
            self._keep(video, predictor.runtime, says, sheet, note)

    def _go_on(self) -> None:
        """CancelledError where nobody wants the rest."""
        if self.stopped.is_set():
            raise CancelledError

    def _keep(
        self, video: _Video, runtime: str, says: dict[str, Any], sheet: bytes, note: Callable[[Outcome], None]
    ) -> None:
        """Write what was found, for this video and those of the same content, if it is still what was read."""
        content = video.local.content
        same = self.same.pop(content)
        self.tried.add(content)
        unchanged = self.videos.is_unchanged(video.local)
        self.videos.release(video.local)
        if not unchanged:
            note(self._left(video.partition, "the file was replaced or removed while it was read"))
            self.again += same
            return
        if sheet:
            with written_whole(self.results.sheet(content)) as partial:
                partial.write_bytes(sheet)
        for this in (video, *same):
            fields = self._common(this.partition, this.local.name) | {
                "content_sha256": content,
                "bytes": this.local.signature[0],
                "spec": self.spec,
                "runtime": runtime,
                **says,
            }
            note(self._given(fields, known=False))

    def _unknown(self, wanted: Wanted, note: Callable[[Outcome], None]) -> Iterator[_Video]:
        """Videos that have to be predicted; what became of each other is noted."""
        for partition, name, found in self.videos.read(wanted):
            if isinstance(found, GoneError):
                note(self._left(partition, str(found)))
                continue
            if isinstance(found, VideoError):
                fields = self._unreadable(partition, name, str(found))
                note(self._given(fields, known=False))
                continue
            content = found.content
            known = None if self.force else self.results.find(content, partition)
            # What could not be decoded is tried once more: it may have been for want of time or memory.
            if known is not None and (known["top"] or content in self.tried):
                fields = {**known, "video": printable(name), "partition": partition, "given": _now()}
                note(self._given(fields, known=True))
                self.videos.release(found)
                continue
            video = _Video(partition, found)
            if self._is_first(video):
                yield video
            else:
                self.videos.release(found)  # what is found of the first is its own

    def _is_first(self, video: _Video) -> bool:
        """Whether no other of its content is being predicted; else it waits for what is found of that one."""
        if video.local.content in self.same:
            self.same[video.local.content].append(video)
            return False
        self.same[video.local.content] = []
        return True

    def _unreadable(self, partition: str, name: bytes, reason: str) -> dict[str, Any]:
        return {**self._common(partition, name), "content_sha256": "", "bytes": 0, "runtime": "", "reason": reason}

    def _common(self, partition: str, name: bytes) -> dict[str, Any]:
        record = self.onnx.record
        now = _now()
        return {
            "format": 1,
            "video": printable(name),
            "partition": partition,
            "model": {
                "asset": record.asset,
                "version": self.onnx.folder.name,
                "sha256": record.files[self.file_name]["sha256"],
                "precision": self.precision,
                **{name: record.lineage.get(name, "") for name in ("dataset", "synthetic", "split", "mlflow_run_id")},
            },
            "top": [],
            "timeline": None,
            "windows": self.options.windows,
            "frames": 0,
            "reason": "",
            "note": "",
            "seconds": {},
            "predicted": now,
            "given": now,
        }

    def _left(self, partition: str, reason: str) -> LeftOut:
        self.counts["gone or changing"] += 1
        return LeftOut(partition, reason)

    def _given(self, fields: dict[str, Any], *, known: bool) -> Given:
        self.counts["known before" if known else "predicted" if fields["top"] else "without a prediction"] += 1
        return Given(fields, self.results.write(fields), known)


def predict_film(
    predictor: "Predictor", path: Path, timeout_s: float, go_on: Callable[[], None]
) -> tuple[dict[str, Any], bytes]:
    """The fields of a long video's result, and its contact sheet; `go_on` is called every second and may raise."""
    from har_assets.runtime.timeline import predict_timeline
    from har_assets.runtime.video import ranked
    from har_assets.runtime.windows import film_sheet
    from har_assets.video.workers import decode_many

    go_on()
    began = time.monotonic()
    try:
        timeline = predict_timeline(predictor, path, timeout_s=timeout_s, progress=lambda *_: go_on())
    except VideoError as error:
        return {"reason": str(error)}, b""
    says = {
        "top": _ranking(*ranked(timeline.scores_NK.mean(axis=0), timeline.labels, TOP)),
        "timeline": {name: value for name, value in timeline.to_dict().items() if name != "video"},
        "windows": timeline.clips,
        "frames": timeline.frames,
        "note": timeline.note,
        "seconds": {"film": round(time.monotonic() - began, 3)},
    }
    with contextlib.closing(decode_many([path], film_sheet, workers=1, go_on=go_on)) as sheets:
        ((_, sheet),) = sheets
    return says, sheet if isinstance(sheet, bytes) else b""


def _says(found: "VideoPrediction | VideoFailure") -> dict[str, Any]:
    """The fields of a result that differ from video to video."""
    from har_assets.runtime.video import VideoFailure

    if isinstance(found, VideoFailure):
        return {"reason": found.reason}
    return {
        "top": _ranking(found.labels, found.scores),
        "windows": found.windows,
        "frames": found.frames,
        "note": found.note,
        "seconds": {"decode": round(found.decode_s, 4), "inference": round(found.inference_s, 4)},
    }


def _ranking(labels: tuple[str, ...], scores: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"label": label, "score": round(score, 6)} for label, score in zip(labels, scores, strict=True)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
