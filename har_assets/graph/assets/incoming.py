"""incoming_video_predictions: what the deployed model says of each video that is put into a folder."""

import base64
import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from har_assets.errors import HarError
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import end_with_run
from har_assets.graph.stage import STAGES
from har_assets.incoming.background import in_background
from har_assets.incoming.folder import partition_key
from har_assets.incoming.options import IncomingOptions
from har_assets.incoming.predict import Given, IncomingRun, LeftOut, Outcome
from har_assets.incoming.results import PREDICTIONS, Results, update_table
from har_assets.model.files import ONNX
from har_assets.model.published import deployed_precision, refuse_failed_parity
from har_assets.system.files import hash_of

Event = dg.AssetMaterialization | dg.AssetObservation

NAME = "incoming_video_predictions"

INCOMING_PARTITIONS = dg.DynamicPartitionsDefinition(name="incoming_videos")
"""One a video of the folder, added by new_video_sensor, in the order in which they are asked for."""


class IncomingConfig(IncomingOptions, AssetConfig):
    """How new videos are scored."""


@stage_asset(
    NAME,
    PREDICTIONS,
    partitions_def=INCOMING_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    # Each video is reported by itself, as soon as it is predicted.
    output_required=False,
)
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
            "code_version": STAGES[NAME].version,
            **config.content(),
        }
        home = store.folder.root / NAME
        videos = incoming.videos(store.project_folder, home)
        run = IncomingRun(Results(home, recipe), onnx, ONNX, deployed_precision(onnx), config, videos, config.force)
        link = mlflow.link(onnx.record.lineage.get("mlflow_run_id", ""))
        names = {partition_key(name): name for name in incoming.scan(videos)}
        began = time.monotonic()
        try:
            wanted = [(key, names.get(key)) for key in context.partition_keys]
            # To note an event costs Dagster's database some commits: the predictions do not wait for that.
            predicting = functools.partial(run.predict, wanted)
            with videos, contextlib.closing(in_background(predicting, run.stopped)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, LeftOut):
                        context.log.warning(f"{outcome.partition}: {outcome.reason}")
                    yield event_of(outcome, run, link)
        finally:
            table = update_table(home, context.log.info)
        counts = ", ".join(f"{count} {what}" for what, count in run.counts.items() if count)
        context.log.info(f"{counts or 'nothing to do'} in {time.monotonic() - began:.1f} s; all are in {table}")


def event_of(outcome: Outcome, run: IncomingRun, mlflow_link: str) -> Event:
    """The event of a video: a materialization of its partition, or an observation of why there is none."""
    if isinstance(outcome, LeftOut):
        return dg.AssetObservation(NAME, partition=outcome.partition, metadata={"reason": outcome.reason})
    return dg.AssetMaterialization(
        NAME,
        partition=outcome.fields["partition"],
        metadata=_shown(outcome, run, mlflow_link),
        tags={
            # As Dagster writes them for an asset that returns one result: by these it knows what is out of date.
            "dagster/code_version": STAGES[NAME].version,
            "dagster/data_version_is_user_provided": "true",
            "dagster/input_data_version/onnx_model": run.onnx.record.data_version,
            "dagster/input_event_pointer/onnx_model": "NULL",
            "dagster/data_version": hash_of([run.results.key, outcome.fields["content_sha256"]]),
        },
    )


def _shown(outcome: Given, run: IncomingRun, mlflow_link: str) -> dict[str, Any]:
    """Metadata of a video in the web UI."""
    fields = outcome.fields
    top = fields["top"]
    model = fields["model"]
    sheet = run.results.sheet(fields["content_sha256"])
    shown: dict[str, Any] = {
        "answer": f"{top[0]['label']} ({top[0]['score']:.3f})" if top else f"none: {fields['reason']}",
        "video": dg.MetadataValue.path(f"{run.videos.address}/{fields['video']}"),
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
    link = mlflow_link
    return shown | {
        "model": dg.MetadataValue.asset(dg.AssetKey("onnx_model")),
        "model_version": dg.MetadataValue.path(str(run.onnx.folder)),
        **({"mlflow_run": dg.MetadataValue.url(link) if link.startswith("http") else link} if link else {}),
        "runtime": fields["runtime"],
        "frames": fields["frames"],
        "seconds": dg.MetadataValue.json(fields["seconds"]),
        "predicted": fields["predicted"],
        "known_before": outcome.known,
        "content_sha256": fields["content_sha256"],
        "result": dg.MetadataValue.path(str(outcome.path)),
    }
