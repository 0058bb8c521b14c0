"""The three official splits: split_evaluation trains and tests one a partition, hmdb51_benchmark takes their mean."""

import csv
import json
import statistics
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import Any

import dagster as dg
from pydantic import ValidationError

from har_assets.dataset.folder import DATASET_FILE
from har_assets.dataset.manifests import ROLES
from har_assets.errors import HarError, MissingArtifactError
from har_assets.graph.asset import CONFIGS, AssetConfig, stage_asset
from har_assets.graph.assets.dataset import (
    FrameCacheConfig,
    cached_frames,
    sorted_clips,
)
from har_assets.graph.assets.deployment import make_onnx
from har_assets.graph.assets.evaluation import make_test_predictions
from har_assets.graph.assets.training import make_checkpoint
from har_assets.graph.publishing import made, publish
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.stage import MANIFESTS, SHARED_BY_SPLITS, STAGES
from har_assets.model.recipe import CheckpointOptions
from har_assets.options import wrong_options
from har_assets.report.options import PREDICTION_TABLE
from har_assets.store.opening import StoreLocation
from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.files import Log, hash_of, silent
from har_assets.system.tables import Column, Table

SPLIT_NUMBERS = ("1", "2", "3")

SPLITS_PARTITIONS = dg.StaticPartitionsDefinition(SPLIT_NUMBERS)

ALL_SPLITS = "dagster asset materialize -m har_assets --select split_evaluation --partition-range 1...3"

PARTS = {
    "manifests": "train_manifest",
    **{stage.name: stage.name for stage in STAGES.values() if stage.per_split and stage.name not in MANIFESTS},
}
"""The parts of a split in order, as `changes` names them, each with the stage that has its configuration."""

FIGURES = {
    "top1": "Share of the test videos whose most likely class is the true one, 0 to 1.",
    "top5": "Share of them whose true class is among the five most likely ones.",
    "mean_class_accuracy": "Mean over the classes of the share of right answers.",
}

SPLITS_TABLE = Table(
    "splits.csv",
    {
        "split": Column("int", "Number of the official split."),
        **{name: Column("float", meaning) for name, meaning in FIGURES.items()},
        "videos": Column("int", "Test videos."),
    },
)

PUBLISHED_FIGURES = "published.csv"


class SplitStore(ArtifactStore):
    """Products of one split, in `artifacts/split_evaluation/<split>/`, where no other asset looks.

    What the main store has of the same inputs by the same configuration is taken from there: split 1, most often.
    """

    split: str
    """`1`, `2` or `3`."""

    @property
    def location(self) -> StoreLocation:
        """Where the store is: inside the main store."""
        return replace(super().location, inside=f"split_evaluation/{self.split}")

    @property
    def data_store(self) -> Store:
        """The main store: all splits have the same data."""
        return super().location.open()

    def latest(self, asset: str) -> Artifact:
        """As in the main store, from which the shared products come."""
        return (self.data_store if asset in SHARED_BY_SPLITS else self.folder).latest(asset)

    @classmethod
    def of(cls, store: ArtifactStore, split: str) -> "SplitStore":
        """That of a split, inside the main store."""
        return cls(root=store.root, work_root=store.work_root, project=store.project, quota=store.quota, split=split)


class SplitConfig(AssetConfig):
    """How each split is trained and tested; by default as the latest versions in the main store were."""

    changes: dict[str, dict[str, Any]] = {}
    """Asset (`manifests`, `frame_cache`, `trained_checkpoint`, `onnx_model`, `test_predictions`) to the options that
    differ from those of the latest version in the main store, or from the defaults where there is none."""


def part_config(part: str, config: SplitConfig, store: ArtifactStore, split: str, log: Log) -> Any:
    """Configuration of a part for a split; HarError names what is impossible."""
    kind = CONFIGS[PARTS[part]]
    changes = config.changes.get(part, {})
    unknown = sorted(changes.keys() - kind.model_fields.keys())
    if unknown:
        raise HarError(f"changes.{part} of split_evaluation names {', '.join(unknown)}, no option of it: correct it.")
    if part == "manifests" and "split" in changes:
        raise HarError("changes.manifests names a split, which is the partition's: leave it out.")
    recorded = store.folder.find_latest(PARTS[part])
    own = {"split": int(split)} if part == "manifests" else {}
    try:
        return kind.from_recorded(
            recorded.record.config if recorded else {}, log, **{"force": config.force, **changes, **own}
        )
    except ValidationError as error:
        raise HarError(
            f"changes.{part} of split_evaluation is impossible: {wrong_options(error)}; correct it."
        ) from None


@stage_asset(
    "split_evaluation",
    PREDICTION_TABLE,
    partitions_def=SPLITS_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def split_evaluation(
    context: dg.AssetExecutionContext,
    config: SplitConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    """One official split a partition: its own manifests, frames, training, ONNX model and test predictions.

    Made by the code of those assets and kept apart from them: their latest versions stay the latest. The same command
    after any kind of end goes on where it stopped.
    """
    unknown = sorted(config.changes.keys() - PARTS.keys())
    if unknown:
        raise HarError(f"changes names {', '.join(unknown)}, no stage of a split: choose from {', '.join(PARTS)}.")
    done: dict[str, Artifact] = {}
    for split in context.partition_keys:
        done[split] = evaluated_split(context, config, store, mlflow, pipes, split)
        context.add_asset_metadata(_metadata_of(done[split]), partition_key=split)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(hash_of({s: found.record.data_version for s, found in done.items()}))
    )


def evaluated_split(
    context: dg.AssetExecutionContext,
    config: SplitConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    pipes: dg.PipesSubprocessClient,
    split: str,
) -> Artifact:
    """The test predictions of a split, and whatever they need. Raises HarError."""
    own = SplitStore.of(store, split)

    def settings(part: str) -> Any:
        return part_config(part, config, store, split, context.log.warning)

    of_manifests, of_frames = settings("manifests"), settings("frame_cache")
    context.log.info(f"Split {split}: manifests and frames.")
    clips = sorted_clips(of_manifests, own, context.log.info)
    clips.refuse()
    for role in ROLES:
        made(
            context,
            own,
            of_manifests,
            partial(clips.product, role=role),
            name=f"{role}_manifest",
            identity=clips.identity,
        )
    _make_frames(context, of_frames, own, _decoded_before(store, split))
    make_checkpoint(context, settings("trained_checkpoint"), own, mlflow, pipes)
    make_onnx(context, settings("onnx_model"), own, mlflow)
    found, _ = make_test_predictions(context, settings("test_predictions"), own, mlflow)
    context.log.info(f"Split {split} of {clips.dataset.name}: {found.record.headline}")
    return found


def _make_frames(
    context: dg.AssetExecutionContext, config: FrameCacheConfig, own: SplitStore, before: Artifact | None
) -> None:
    from har_assets.video.frame_cache import clear_work

    work = own.folder.root / "frame_cache" / ".work"
    made(
        context,
        own,
        config,
        lambda build: cached_frames(build, config, own, before, work, context.log.info),
        name="frame_cache",
    )
    clear_work(work)


def _decoded_before(store: ArtifactStore, split: str) -> Artifact | None:
    """A frame cache whose packs can be linked: splits hold the same clips, sorted otherwise."""
    others = [SplitStore.of(store, other).folder.find_latest("frame_cache") for other in (split, *SPLIT_NUMBERS)]
    return next((found for found in (*others, store.folder.find_latest("frame_cache")) if found), None)


def _metadata_of(found: Artifact) -> dict[str, Any]:
    record = found.record
    return {
        "headline": record.headline,
        "dagster/row_count": record.metadata["videos"],
        **{name: record.metadata[name] for name in (*FIGURES, "videos", "quarantined")},
        "mlflow_run": record.metadata.get("mlflow_run", "none: tracking is off"),
        "folder": dg.MetadataValue.path(found.address),
        "made": record.created,
    }


class BenchmarkConfig(AssetConfig):
    """The mean of the three splits has no options."""


@stage_asset("hmdb51_benchmark", SPLITS_TABLE)
def hmdb51_benchmark(
    context: dg.AssetExecutionContext, config: BenchmarkConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """Mean and standard deviation of the three official splits, beside published figures where the data is HMDB51.

    Published figures are the mean of three splits; the deviation here is that of the splits, which share most of their
    films: it says how much a figure of one split may mislead, not how sure the mean is.
    """
    tested = tested_splits(store)
    complete = is_full_hmdb51(store, tested)

    def product_of(build: Build) -> Product:
        training = SplitStore.of(store, "1").latest("trained_checkpoint").record
        options = CheckpointOptions.from_recorded(training.config, silent)
        ours = {
            "method": f"{options.network}, this project",
            "pretrained_on": training.metadata.get("pretrained") or "nothing",
            "input": "RGB",
        }
        return benchmark_product(build, tested, ours if complete else None)

    versions = {split: found.record.data_version for split, found in tested.items()}
    return publish(context, store, config, product_of, identity={"splits": versions, "complete": complete})


def benchmark_product(build: Build, tested: dict[str, Artifact], ours: dict[str, str] | None) -> Product:
    """Write `splits.csv` and, for HMDB51, `comparison.csv`, whose first row begins with `ours`; the figures of both."""
    record = tested["1"].record
    rows = [
        {
            "split": split,
            **{name: round(found.record.metadata[name], 4) for name in FIGURES},
            "videos": found.record.metadata["videos"],
        }
        for split, found in tested.items()
    ]
    figures: dict[str, dict[str, float]] = {}
    for name in FIGURES:
        values = [found.record.metadata[name] for found in tested.values()]
        figures[name] = {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
    _write_table(build, SPLITS_TABLE.file, rows)
    dataset = f"{record.lineage['dataset']}{' (synthetic)' if record.lineage['synthetic'] else ''}"
    top1 = figures["top1"]
    words = f"top-1 {top1['mean']:.3f} ± {top1['deviation']:.3f}, the mean of three splits of {dataset}"
    metadata: dict[str, Any] = {"figures": figures, "splits": rows}
    if ours:
        mean = f"{100 * top1['mean']:.1f}"
        comparison = [{**ours, "top1_percent": mean, "source": SPLITS_TABLE.file, "read_at": ""}, *published_figures()]
        _write_table(build, "comparison.csv", comparison)
        metadata["comparison"] = comparison
    else:
        words += "; not compared with published figures, as the data is not the whole of HMDB51"
    (build.folder / "figures.json").write_text(json.dumps({**metadata, "dataset": dataset}, indent=2) + "\n")
    return Product(
        headline=words,
        metadata=metadata,
        lineage={name: record.lineage[name] for name in ("dataset", "synthetic", "data_version")},
    )


def _write_table(build: Build, name: str, rows: list[dict[str, Any]]) -> None:
    with (build.folder / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def tested_splits(store: ArtifactStore) -> dict[str, Artifact]:
    """Test predictions of all three splits.

    Raises:
        HarError: one is missing, or they were not made from the same data by the same configuration.
    """
    found = {split: SplitStore.of(store, split).folder.find_latest("test_predictions") for split in SPLIT_NUMBERS}
    missing = [split for split, artifact in found.items() if artifact is None]
    if missing:
        raise MissingArtifactError(
            f"split_evaluation has not been materialized for split {', '.join(missing)}: run `{ALL_SPLITS}`."
        )
    tested = {split: artifact for split, artifact in found.items() if artifact is not None}
    first = _made_with(store, "1")
    for split in SPLIT_NUMBERS[1:]:
        for name, value in _made_with(store, split).items():
            if value != first[name]:
                raise HarError(
                    f"Splits 1 and {split} differ in {name}, so that their mean would say nothing: run `{ALL_SPLITS}`."
                )
    return tested


def _made_with(store: ArtifactStore, split: str) -> dict[str, Any]:
    """Data and configuration of a split, all that has to be equal."""
    own = SplitStore.of(store, split)
    found: dict[str, Any] = {"the data": own.latest("test_predictions").record.lineage["data_version"]}
    for part, stage in PARTS.items():
        config = CONFIGS[stage].from_recorded(own.latest(stage).record.config, silent)
        fields = config.content()
        fields.pop("split", None)
        found[f"the configuration of {part}"] = fields
    return found


def is_full_hmdb51(store: ArtifactStore, tested: dict[str, Artifact]) -> bool:
    """Whether the splits were made from all 6,766 clips of HMDB51; HarError where data/ has been replaced since."""
    clips = store.latest("video_clips")
    if clips.record.data_version != tested["1"].record.lineage["data_version"]:
        raise HarError(f"video_clips is another version than the splits were made from: run `{ALL_SPLITS}`.")
    return bool(json.loads(clips.file(DATASET_FILE).read_text())["complete"])


def published_figures() -> list[dict[str, str]]:
    """Rows of method, pretrained_on, input, top1_percent (mean of three splits) and source."""
    text = resources.files("har_assets.dataset").joinpath(PUBLISHED_FIGURES).read_text()
    return list(csv.DictReader(text.splitlines()))
