"""new_video_sensor and new_model_sensor: they ask for predictions, one run for many videos, and are off by default.

A run names its videos by a range of partitions, so the videos of a batch must be neighbours in Dagster's list, which
has keys in the order in which they were added. The key of a changed video is in the middle of the list: it is removed
and added again at the end, and keeps its history. A repeated run has the same range.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.assets.incoming import INCOMING_PARTITIONS, NAME
from har_assets.graph.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    MAX_RETRIES_TAG,
    RUN_KEY_TAG,
    existing_partitions,
    page_of_partitions,
)
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import is_dead, release_dead_runs
from har_assets.incoming.folder import partition_key
from har_assets.incoming.ledger import RETRY_WAITS_S, Ledger, Plan, RunState

INTERVAL_S = settings.read().incoming_interval
LEDGER = ".known_videos.sqlite"
PARTITIONS = str(INCOMING_PARTITIONS.name)


def state_of_runs(instance: DagsterInstance) -> Callable[[str], RunState]:
    """Return a function from a run key to the state of its run. A run of a killed process is marked failed first."""

    def state(run_key: str) -> RunState:
        records = instance.get_run_records(RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1)
        run = records[0].dagster_run if records else None
        # A run that was created and not launched is launched by the same request.
        if run is None or run.status == DagsterRunStatus.NOT_STARTED:
            return RunState.ABSENT
        if run.is_finished:
            return RunState.SUCCEEDED if run.is_success else RunState.FAILED
        if is_dead(run):
            release_dead_runs(instance)
            return RunState.FAILED
        return RunState.RUNNING

    return state


def run_request(key: str, first: str, last: str, videos: int) -> dg.RunRequest:
    """One run for a range of partitions."""
    return dg.RunRequest(
        run_key=key,
        asset_selection=[dg.AssetKey(NAME)],  # the target's, so that lists of runs show it
        tags={
            ASSET_PARTITION_RANGE_START_TAG: first,
            ASSET_PARTITION_RANGE_END_TAG: last,
            "har/videos": str(videos),
            MAX_RETRIES_TAG: "0",  # the ledger asks for the videos of a failed run again
        },
    )


@dg.sensor(
    target=dg.AssetSelection.assets(NAME),
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Predicts the videos that are put into the folder `incoming/` (or HAR_INCOMING, which may be "
    "s3://bucket/prefix): new and changed ones, as soon as they stand still, one run for all. Removed ones leave the "
    "list of partitions; their results stay. Resetting the cursor has every file looked at again, which predicts "
    "nothing twice. A tick costs a listing (in a bucket one request for 1,000 objects), new videos their decoding and "
    "scoring on the GPU.",
)
def new_video_sensor(
    context: dg.SensorEvaluationContext, store: ArtifactStore, incoming: IncomingVideos
) -> dg.SensorResult | dg.SkipReason:
    """Compare the folder with the ledger of known videos."""
    if store.folder.find_latest("onnx_model") is None:
        return dg.SkipReason("There is no onnx_model yet: materialize it, and the videos are predicted.")
    project, instance = store.project_folder, context.instance
    notes: list[str] = []
    try:
        videos = incoming.videos(project, store.folder.root / NAME)
        found = incoming.scan(videos, notes.append)
        with Ledger.opened(store.folder.root / NAME / LEDGER, context.cursor) as ledger:
            plan = ledger.plan(
                found,
                now=time.time(),
                run_state=state_of_runs(instance),
                still_s=incoming.still_seconds if videos.needs_stillness else 0,
                most=incoming.videos_a_run,
            )
            if ledger.is_new:
                known = {partition_key(name) for name in found}
                plan.forgotten += [key for key in instance.get_dynamic_partitions(PARTITIONS) if key not in known]
            requests = partition_requests(instance, plan)
            edition = ledger.edition
    except HarError as error:
        return dg.SkipReason(str(error))
    words = " ".join([f"{in_words(plan)}.", *notes]) if notes else in_words(plan)
    if plan.request is None:
        return dg.SensorResult(skip_reason=words, cursor=edition, dynamic_partitions_requests=requests)
    context.log.info(words)
    partitions = plan.request.partitions
    return dg.SensorResult(
        run_requests=[run_request(plan.request.key, partitions[0], partitions[-1], len(partitions))],
        cursor=edition,
        dynamic_partitions_requests=requests,
    )


def partition_requests(
    instance: DagsterInstance, plan: Plan
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    """Requests that make the partitions of a plan neighbours, and that remove the partitions of removed files."""
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if plan.forgotten:
        requests.append(INCOMING_PARTITIONS.build_delete_request(list(dict.fromkeys(plan.forgotten))))
    if plan.request:
        partitions = list(plan.request.partitions)
        there = existing_partitions(instance, PARTITIONS, partitions)
        if not (plan.request.repeated and len(there) == len(partitions)):
            # Deleted here, as one tick may not ask to remove a key and to add it. If this tick ends early, the next one
            # makes the same request and adds what is missing.
            for key in there:
                instance.delete_dynamic_partition(PARTITIONS, key)
        requests.append(INCOMING_PARTITIONS.build_add_request(partitions))
    return requests


def in_words(plan: Plan) -> str:
    """Describe in one line what a tick found."""
    parts = [f"{plan.known:,} videos in the folder"]
    if plan.request:
        again = " again" if plan.request.repeated else ""
        parts.append(f"{len(plan.request.partitions):,} asked for{again}")
    for count, what in (
        (plan.running, "in a run"),
        (plan.repeating, "to be asked for again, as their run failed"),
        (plan.waiting - plan.unsettled, "waiting for their turn"),
        (plan.unsettled, "still being written"),
        (len(plan.forgotten), "removed"),
        (plan.given_up, f"given up after {len(RETRY_WAITS_S) + 1} failed runs (touch the file, or reset the cursor)"),
    ):
        if count > 0:
            parts.append(f"{count:,} {what}")
    return ", ".join(parts)


@dg.sensor(
    target=dg.AssetSelection.assets(NAME),
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Predicts all videos of the folder again when another onnx_model has been published, run after run. "
    "The results of the older models stay. Costs the decoding and scoring of the whole folder.",
)
def new_model_sensor(
    context: dg.SensorEvaluationContext, store: ArtifactStore, incoming: IncomingVideos
) -> dg.SensorResult | dg.SkipReason:
    """Walk through all partitions once for each model, a page a run."""
    onnx = store.folder.find_latest("onnx_model")
    if onnx is None:
        return dg.SkipReason("There is no onnx_model yet.")
    walk = _Walk.read(context.cursor, onnx.record.data_version)
    says = walk.look_at_run(state_of_runs(context.instance), time.time(), context.log.error)
    if not walk.done and not says:
        # Fetched again for each attempt: the first or last key of a range may be gone by then.
        keys, cursor, more = page_of_partitions(context.instance, PARTITIONS, incoming.videos_a_run, walk.page)
        if keys:
            walk.asked, walk.next_page, walk.more = True, cursor, more
            request = run_request(walk.run_key, keys[0], keys[-1], len(keys))
            return dg.SensorResult(run_requests=[request], cursor=walk.to_json())
        walk.done = True
    says = says or f"All videos have been predicted by onnx_model {onnx.folder.name}."
    return dg.SensorResult(skip_reason=says, cursor=walk.to_json())


@dataclass
class _Walk:
    """Cursor of new_model_sensor: how far it has come through the partitions with one model."""

    model: str
    """Data version of onnx_model."""
    page: str | None = None
    """Dagster's cursor in the list of partitions, before the videos of the current run; None is its beginning."""
    next_page: str | None = None
    """The same after them."""
    more: bool = True
    """Whether there are any after them."""
    number: int = 0
    """Pages that are behind it."""
    attempt: int = 0
    asked: bool = False
    """The run of this page and attempt has been asked for."""
    due: float = 0.0
    """When to ask for it, seconds since the epoch."""
    done: bool = False

    @classmethod
    def read(cls, cursor: str | None, model: str) -> "_Walk":
        """The walk of a cursor, or a new one where there is none of this model."""
        try:
            walk = cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls(model)
        return walk if walk.model == model else cls(model)

    def to_json(self) -> str:
        """The cursor."""
        return json.dumps(asdict(self))

    @property
    def run_key(self) -> str:
        """Name of the run of this page and attempt."""
        return f"{self.model[:12]}-{self.number}-{self.attempt}"

    def look_at_run(self, run_state: Callable[[str], RunState], now: float, complain: Callable[[str], None]) -> str:
        """Go on to the next page when the run of this one has ended; return why nothing is to be asked for now."""
        state = run_state(self.run_key) if self.asked and not self.done else RunState.ABSENT
        if state is RunState.RUNNING:
            return "A run is predicting them."
        if state is RunState.FAILED and self.attempt < len(RETRY_WAITS_S):
            self.due = now + RETRY_WAITS_S[self.attempt]
            self.attempt, self.asked = self.attempt + 1, False
        elif state is not RunState.ABSENT:
            if state is RunState.FAILED:
                complain(f"A page of videos was given up after {self.attempt + 1} failed runs.")
            self.page, self.number = self.next_page, self.number + 1
            self.attempt, self.asked, self.done = 0, False, not self.more
        return "The last run failed; it is repeated later." if self.due > now else ""


INCOMING_SENSORS = [new_video_sensor, new_model_sensor]
