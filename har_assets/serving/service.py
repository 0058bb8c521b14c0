"""Videos of a request to labels and scores. Knows neither MLflow nor HTTP; safe to call from many threads.

Whatever is wrong with a request is a RequestError, one sentence that names the row; a server that cannot answer in
time raises BusyError. A video is decoded in a process of its own: one that crashes or hangs its decoder costs its
request only.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets import settings
from har_assets.errors import HarError, VideoError
from har_assets.model.spec import ModelSpec
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.video import Windows, ranked
from har_assets.runtime.windows import ReadLimits, read_windows
from har_assets.serving.decoders import Decoders
from har_assets.serving.limits import ServingLimits
from har_assets.video.workers import available_cores

FOLDER_VARIABLE = settings.SERVING_FOLDER
"""Imported by the code that models registered before the settings had their own module keep a copy of."""


class RequestError(HarError):
    """A request that cannot be answered, whoever is asked: its sender must change it."""


class BusyError(HarError):
    """A request that could not be answered in time; the same one may be answered later."""


@dataclass(frozen=True)
class VideoRow:
    """One video of a request: exactly one of both is given, None stands for absent."""

    video: object = None
    """The file as base64 text."""
    path: object = None
    """Path below the server's folder of videos, relative to it or absolute."""


class VideoService:
    """A loaded model and the processes that decode for it. `close` ends them; so does the end of this process."""

    def __init__(
        self,
        model: Path,
        limits: ServingLimits | None = None,
        *,
        runtime: str = "auto",
        workers: int = 0,
        folder: Path | None = None,
    ) -> None:
        """`workers` 0 takes one a core; `folder` is where `path` may point, None refuses it.

        Raises:
            HarError: the model cannot be opened, or the folder is none.
        """
        self.limits = limits or ServingLimits()
        self.folder = _existing(folder) if folder is not None else None
        self.predictor: Predictor = open_model(model, runtime)
        self._predicting = threading.Lock()
        self._decoders = Decoders(workers or available_cores(), _warm)

    def close(self) -> None:
        """End the decoding processes."""
        self._decoders.close()

    def predict(self, rows: Sequence[VideoRow], *, top_k: int = 5, windows: int = 4) -> list[dict[str, Any]]:
        """The `top_k` labels and scores of each video, as `predict_video` gives them, in the order of the rows.

        All or nothing: one bad row refuses the request, and every bad one is named.

        Returns:
            A dictionary a row: labels (highest score first), scores (0..1, mean over the windows), windows, frames
            (of the file, decoded), note (what is odd about the file, or empty).

        Raises:
            RequestError: the request is beyond the limits or a row is no readable video.
            BusyError: it could not be answered within the limit of a request.
        """
        deadline = time.monotonic() + self.limits.request_timeout_s
        self._check_numbers(len(rows), top_k, windows)
        videos = self._all_or_nothing([_attempt(self._bytes_of, row) for row in rows])
        read_limits = ReadLimits(self.limits.max_frames, self.limits.max_seconds, self.limits.max_pixels)
        decoding = [
            self._decoders.submit(
                _decode, data, self.predictor.spec, windows, read_limits, timeout_s=self.limits.decode_timeout_s
            )
            for data in videos
        ]
        del videos
        decoded: list[Windows] = self._all_or_nothing(self._collect(decoding, deadline))
        return [self._score(read, top_k, windows, deadline) for read in decoded]

    def _check_numbers(self, rows: int, top_k: int, windows: int) -> None:
        limits = self.limits
        if not 1 <= rows <= limits.max_rows:
            raise RequestError(
                f"The request has {rows or 'no'} rows with `video` or `path`: send 1 to {limits.max_rows} videos."
            )
        if not 1 <= windows <= limits.max_windows:
            raise RequestError(f"windows is {windows}: choose 1 to {limits.max_windows}.")
        if top_k < 1:
            raise RequestError(f"top_k is {top_k}: choose 1 or more.")

    def _bytes_of(self, row: VideoRow) -> bytes:
        """The file that a row holds or names."""
        if (row.video is None) == (row.path is None):
            raise RequestError(
                "give either `video`, a file as base64, or `path`"
                if row.video is None
                else "both `video` and `path` are given, choose one"
            )
        if row.path is not None:
            return self._read_file(row.path)
        if not isinstance(row.video, str):
            raise RequestError(f"`video` is of type {type(row.video).__name__}, not base64 text")
        # Known before anything is decoded: four characters stand for three bytes.
        if len(row.video) // 4 * 3 - 2 > self.limits.max_video_bytes:
            raise RequestError(self._too_large(len(row.video) // 4 * 3))
        try:
            data = base64.b64decode(row.video, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("`video` is not base64: encode the file with `base64 -w0`") from None
        if not data:
            raise RequestError("`video` is empty")
        return data

    def _read_file(self, path: object) -> bytes:
        if self.folder is None:
            raise RequestError(
                f"`path` is off on this server: send `video`, or start it with "
                f"{settings.SERVING_FOLDER}=/folder/of/videos"
            )
        if not isinstance(path, str):
            raise RequestError(f"`path` is of type {type(path).__name__}, not text")
        try:
            return read_below(self.folder, path, self.limits.max_video_bytes)
        except _TooLargeError as error:
            raise RequestError(self._too_large(error.size)) from None

    def _too_large(self, size: int) -> str:
        return (
            f"the video has {size:,} bytes, the limit is {self.limits.max_video_bytes:,}: send a shorter or smaller one"
        )

    def _collect(self, futures: list[Future[Windows]], deadline: float) -> list[Any]:
        """The outcome of each video: its windows, or an error."""
        waited = wait(futures, timeout=max(0.0, deadline - time.monotonic()))
        if waited.not_done:
            for future in futures:
                future.cancel()
            raise self._busy()
        found = [future.exception() or future.result() for future in futures]
        for other in found:
            if isinstance(other, BaseException) and not isinstance(other, VideoError):
                raise BusyError(f"The server cannot decode videos now ({other}): send the request again later.")
        return found

    def _busy(self) -> BusyError:
        return BusyError(
            f"The request was not answered within {self.limits.request_timeout_s:g} s, the limit: the server is busy, "
            "send it again later or with fewer rows."
        )

    def _score(self, read: Windows, top_k: int, windows: int, deadline: float) -> dict[str, Any]:
        if not self._predicting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._busy()
        try:
            scores_K = self.predictor.predict(read.clips_BCTHW).mean(axis=0)
        finally:
            self._predicting.release()
        labels, scores = ranked(scores_K, self.predictor.spec.labels, top_k)
        return {
            "labels": list(labels),
            "scores": list(scores),
            "windows": windows,
            "frames": read.num_source_frames,
            "note": read.note,
        }

    @staticmethod
    def _all_or_nothing(results: list[Any]) -> list[Any]:
        """The results, or a RequestError that names every bad row."""
        bad = [
            f"row {number} of {len(results)}: {result}"
            for number, result in enumerate(results, 1)
            if isinstance(result, HarError)
        ]
        if bad:
            sentence = "; ".join(bad)
            raise RequestError(f"{sentence[0].upper()}{sentence[1:].rstrip('.')}.")
        return results


def _attempt(function: Any, argument: Any) -> Any:
    """The result, or the RequestError that came instead."""
    try:
        return function(argument)
    except RequestError as error:
        return error


class _TooLargeError(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def read_below(folder: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of a regular file below a folder (resolved); nothing outside of it is ever opened for reading.

    Raises:
        RequestError: it is elsewhere (through `..` or a link), absent, or no regular file.
    """
    outside = RequestError(f"`path` {name!r} is not below the folder of videos of this server")
    try:
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise outside
        # Not blocking: a named pipe would hold the server up. The link that the last part became meanwhile is refused.
        handle = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "the name is impossible"
        raise RequestError(f"`path` {name!r} cannot be read: {reason}") from None
    try:
        # What was opened, whatever was renamed meanwhile.
        if not Path(os.readlink(f"/proc/self/fd/{handle}")).is_relative_to(folder):
            raise outside
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise RequestError(f"`path` {name!r} is not a file")
        if facts.st_size > max_bytes:
            raise _TooLargeError(facts.st_size)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(handle)


def _existing(folder: Path) -> Path:
    try:
        found = folder.resolve(strict=True)
    except OSError as error:
        raise HarError(f"{folder}, the folder of videos, cannot be used ({error.strerror}): name another.") from None
    if not found.is_dir():
        raise HarError(f"{folder}, the folder of videos, is no folder: name one.")
    return found


def _warm() -> None:
    """In a decoding process: import what decoding needs."""
    import av  # noqa: F401
    import decord  # noqa: F401


def _decode(data: bytes, spec: ModelSpec, windows: int, limits: ReadLimits) -> Windows:
    """In a decoding process: the windows of a file given as bytes, which never touch a disk."""
    handle = os.memfd_create("video")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        return read_windows(Path(f"/proc/self/fd/{handle}"), spec, windows, limits)
