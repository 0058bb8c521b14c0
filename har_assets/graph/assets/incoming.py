"""incoming_video_predictions: what the deployed model says of each video that is put into a folder."""

import base64
import contextlib
import functools
import itertools
import json
import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import dagster as dg

from har_assets.cluster.needs import needs
from har_assets.errors import HarError, VideoError
from har_assets.graph.assets.deployment import ONNX, deployed_precision, refuse_failed_parity
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import AssetConfig
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import end_with_run
from har_assets.incoming.folder import GoneError, LocalVideo, Videos, Wanted, partition_key, printable
from har_assets.incoming.results import TOP, Results, update_table
from har_assets.store.record import Artifact
from har_assets.system.files import hash_of, written_whole

if TYPE_CHECKING:
    from har_assets.runtime import Predictor
    from har_assets.runtime.video import VideoFailure, VideoPrediction

Item = TypeVar("Item")
Event = dg.AssetMaterialization | dg.AssetObservation

NAME = "incoming_video_predictions"
CODE_VERSION = "1"

EVENTS_AHEAD = 256
"""Events that wait to be noted, a contact sheet in each: some megabytes, however many videos a run has."""

INCOMING_PARTITIONS = dg.DynamicPartitionsDefinition(name="incoming_videos")
"""One a video of the folder, added by new_video_sensor, in the order in which they are asked for."""


class IncomingConfig(AssetConfig):
    """How new videos are scored."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {
        "runtime",
        "batch",
        "workers",
        "timeout_s",
        "film_timeout_s",
    }

    runtime: str = "auto"
    """What runs the model; auto takes the fastest that works here."""
    windows: int = 4
    """Temporal clips a video, spread evenly; their scores are averaged."""
    batch: int = 16
    """Clips that are scored at once."""
    workers: int = 0
    """Decoding processes; 0 takes one a core."""
    timeout_s: float = 120.0
    """Seconds that decoding one video may take."""
    film_from_s: float = 60.0
    """Videos that claim to be longer than so many seconds are films: cut into windows from end to end, and predicted
    as a timeline of segments; 0 predicts videos of any length by their few windows."""
    film_timeout_s: float = 14400.0
    """Seconds that one film may take."""


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy is beta in dagster 1.13
    _asset = dg.asset(
        deps=["onnx_model"],
        partitions_def=INCOMING_PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="inference",
        kinds={"onnx"},
        code_version=CODE_VERSION,
        pool="gpu",
        op_tags=needs(gpus=1, project=True),
        # Each video is reported by itself, as soon as it is predicted.
        output_required=False,
        tags={"har/stage": "inference"},
    )


@_asset
def incoming_video_predictions(
    context: dg.AssetExecutionContext,
    config: IncomingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    incoming: IncomingVideos,
) -> Iterator[Event]:
    """A JSON file a video with its five most likely actions, and `predictions.csv` of all; a partition is a video.

    What was predicted before of the same content by the same model is not predicted again. A video that cannot be
    decoded gets a result that says why, and is tried again when it is asked for again.
    """
    with failures_in_words():
        end_with_run(context.instance, context.run.run_id)
        if config.windows < 1 or config.batch < 1:
            raise HarError(f"windows is {config.windows} and batch {config.batch}: choose 1 or more of each.")
        onnx = store.latest("onnx_model")
        refuse_failed_parity(onnx)
        recipe = {
            "model_sha256": onnx.record.files[ONNX]["sha256"],
            "code_version": CODE_VERSION,
            **config.content(),
        }
        home = store.folder.root / NAME
        videos = incoming.videos(store.project_folder, home)
        work = _Work(
            results=Results(home, recipe),
            onnx=onnx,
            config=config,
            videos=videos,
            # As Dagster writes them for an asset that returns one result: by these it knows what is out of date.
            tags={
                "dagster/code_version": CODE_VERSION,
                "dagster/data_version_is_user_provided": "true",
                "dagster/input_data_version/onnx_model": onnx.record.data_version,
                "dagster/input_event_pointer/onnx_model": "NULL",
            },
            mlflow_link=mlflow.link(onnx.record.lineage.get("mlflow_run_id", "")),
        )
        names = {partition_key(name): name for name in incoming.scan(videos)}
        began = time.monotonic()
        try:
            wanted = [(key, names.get(key)) for key in context.partition_keys]
            # To note an event costs Dagster's database some commits: the predictions do not wait for that.
            work_on = functools.partial(work.predict, wanted)
            with videos, contextlib.closing(in_background(work_on, work.stopped)) as events:
                for event in events:
                    if isinstance(event, dg.AssetObservation):
                        context.log.warning(f"{event.partition}: {event.metadata['reason'].value}")
                    yield event
        finally:
            table = update_table(work.results.home, context.log.info)
        counts = ", ".join(f"{count} {what}" for what, count in work.counts.items() if count)
        context.log.info(f"{counts or 'nothing to do'} in {time.monotonic() - began:.1f} s; all are in {table}")


def in_background(
    work: Callable[[Callable[[Item], None]], None], enough: threading.Event, ahead: int = EVENTS_AHEAD
) -> Generator[Item, None, None]:
    """The items that `work` gives to the function it is called with; it runs in a thread of its own.

    It is at most `ahead` items ahead of what is used here. What it raises is raised here after its last item. Closing
    this one sets `enough`, lets the next item that `work` gives end it with CancelledError, and waits for that.
    """
    queue: Queue[tuple[Item, ...]] = Queue(ahead)

    def put(item: tuple[Item, ...]) -> None:
        while not enough.is_set():
            with contextlib.suppress(Full):
                queue.put(item, timeout=0.5)  # nobody takes items out any more when `enough` is set
                return

    def give(item: Item) -> None:
        put((item,))
        if enough.is_set():
            raise CancelledError

    def run() -> None:
        try:
            work(give)
        finally:
            put(())

    with ThreadPoolExecutor(1, thread_name_prefix="predictions") as pool:
        running = pool.submit(run)
        try:
            while found := queue.get():
                yield found[0]
            running.result()
        finally:
            enough.set()


@dataclass(frozen=True)
class _Video:
    """A video on its way."""

    partition: str
    local: LocalVideo


@dataclass
class _Work:
    """One run over some videos."""

    results: Results
    onnx: Artifact
    config: IncomingConfig
    videos: Videos
    tags: dict[str, str]
    """What Dagster is to know of the lineage of each materialization."""
    mlflow_link: str
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
    """Of the model, JSON-ready; known when it is open."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Nobody wants the rest."""
    tried: set[str] = field(default_factory=set)
    """Content that the predictor had."""
    again: list[_Video] = field(default_factory=list)
    """Of the content of a video that was replaced while it was read: one of them has to be predicted instead."""

    def predict(self, wanted: list[tuple[str, bytes | None]], note: Callable[[Event], None]) -> None:
        """Predict partitions, each with the name of its video or None where it is gone; note an event of each."""
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

            predictor = predictor or open_model(self.onnx.file(ONNX), self.config.runtime)
            self.spec = self.spec or json.loads(predictor.spec.to_json())
            self._predict(predictor, itertools.chain([first], unknown), note)
        while self.again:
            assert predictor is not None
            again, self.again = self.again, []
            self._predict(predictor, (video for video in again if self._is_first(video)), note)

    def _predict(self, predictor: "Predictor", videos: Iterator[_Video], note: Callable[[Event], None]) -> None:
        """Predict videos, the films among them after all others."""
        from har_assets.runtime.video import VideoFailure, VideoPrediction, predict_videos

        def paths() -> Iterator[Path]:
            for video in videos:
                self.waiting.append(video)
                yield video.local.path

        for found in predict_videos(
            predictor,
            paths(),
            windows=self.config.windows,
            top=TOP,
            batch=self.config.batch,
            workers=self.config.workers or None,
            timeout_s=self.config.timeout_s,
            contact_sheets=True,
            longest_s=self.config.film_from_s or math.inf,
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
            says, sheet = predict_film(predictor, path, self.config.film_timeout_s, self._go_on)
            self._keep(video, predictor.runtime, says, sheet, note)

    def _go_on(self) -> None:
        """CancelledError where nobody wants the rest."""
        if self.stopped.is_set():
            raise CancelledError

    def _keep(
        self, video: _Video, runtime: str, says: dict[str, Any], sheet: bytes, note: Callable[[Event], None]
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
            note(self._materialized(fields, self.results.write(fields), known=False))

    def _unknown(self, wanted: Wanted, note: Callable[[Event], None]) -> Iterator[_Video]:
        """Videos that have to be predicted; an event is noted of each other."""
        for partition, name, found in self.videos.read(wanted):
            if isinstance(found, GoneError):
                note(self._left(partition, str(found)))
                continue
            if isinstance(found, VideoError):
                fields = self._unreadable(partition, name, str(found))
                note(self._materialized(fields, self.results.write(fields), known=False))
                continue
            content = found.content
            known = None if self.config.force else self.results.find(content, partition)
            # What could not be decoded is tried once more: it may have been for want of time or memory.
            if known is not None and (known["top"] or content in self.tried):
                fields = {**known, "video": printable(name), "partition": partition, "given": _now()}
                note(self._materialized(fields, self.results.write(fields), known=True))
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
                "sha256": record.files[ONNX]["sha256"],
                "precision": deployed_precision(self.onnx),
                **{name: record.lineage.get(name, "") for name in ("dataset", "synthetic", "split", "mlflow_run_id")},
            },
            "top": [],
            "timeline": None,
            "windows": self.config.windows,
            "frames": 0,
            "reason": "",
            "note": "",
            "seconds": {},
            "predicted": now,
            "given": now,
        }

    def _left(self, partition: str, reason: str) -> dg.AssetObservation:
        self.counts["gone or changing"] += 1
        return dg.AssetObservation(NAME, partition=partition, metadata={"reason": reason})

    def _materialized(self, fields: dict[str, Any], path: Path, *, known: bool) -> dg.AssetMaterialization:
        self.counts["known before" if known else "predicted" if fields["top"] else "without a prediction"] += 1
        return dg.AssetMaterialization(
            NAME,
            partition=fields["partition"],
            metadata=self._shown(fields, path, known),
            tags={**self.tags, "dagster/data_version": hash_of([self.results.key, fields["content_sha256"]])},
        )

    def _shown(self, fields: dict[str, Any], path: Path, known: bool) -> dict[str, Any]:
        """What a person sees of a video in the web UI."""
        top = fields["top"]
        model = fields["model"]
        sheet = self.results.sheet(fields["content_sha256"])
        shown: dict[str, Any] = {
            "answer": f"{top[0]['label']} ({top[0]['score']:.3f})" if top else f"none: {fields['reason']}",
            "video": dg.MetadataValue.path(f"{self.videos.address}/{fields['video']}"),
        }
        if top and sheet.is_file():
            encoded = base64.b64encode(sheet.read_bytes()).decode()
            shown["contact_sheet"] = dg.MetadataValue.md(f"![frames](data:image/jpeg;base64,{encoded})")
        if top:
            shown["top_5"] = dg.MetadataValue.table(
                [dg.TableRecord({"rank": rank, **answer}) for rank, answer in enumerate(top, 1)]
            )
        else:
            shown["reason"] = fields["reason"]
        if fields["timeline"]:
            segments = fields["timeline"]["segments"]
            shown["segments"] = len(segments)
            shown["timeline"] = dg.MetadataValue.table(
                [dg.TableRecord(segment) for segment in segments[:200]],
                dg.TableSchema([dg.TableColumn(name) for name in ("label", "start_s", "end_s", "score")]),
            )
        if fields["note"]:
            shown["note"] = fields["note"]
        if model["synthetic"]:
            shown["caution"] = "the model was trained on the built-in synthetic sample, not on real videos"
        link = self.mlflow_link
        return shown | {
            "model": dg.MetadataValue.asset(dg.AssetKey("onnx_model")),
            "model_version": dg.MetadataValue.path(str(self.onnx.folder)),
            **({"mlflow_run": dg.MetadataValue.url(link) if link.startswith("http") else link} if link else {}),
            "runtime": fields["runtime"],
            "frames": fields["frames"],
            "seconds": dg.MetadataValue.json(fields["seconds"]),
            "predicted": fields["predicted"],
            "known_before": known,
            "content_sha256": fields["content_sha256"],
            "result": dg.MetadataValue.path(str(path)),
        }


def predict_film(
    predictor: "Predictor", path: Path, timeout_s: float, go_on: Callable[[], None]
) -> tuple[dict[str, Any], bytes]:
    """What a result says of a long video, and its contact sheet; `go_on` is called every second and may raise."""
    from har_assets.runtime.timeline import predict_timeline
    from har_assets.runtime.video import film_sheet, ranked
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
    """What a result says of a video, besides what is the same for all."""
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
