"""Publishing, the same for every asset of the graph: skip what is unchanged, publish all or nothing, fail in words."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from har_assets.graph.asset import MAIN, AssetConfig
from har_assets.graph.dagster_private import add_run_tags
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import OUTBOX_TAG, end_with_run
from har_assets.graph.stage import STAGES
from har_assets.store.building import ProductKey, find_or_build
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.tables import Table
from har_assets.tracking.run_log import RunLog


def publish(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    config: AssetConfig,
    build: Callable[[Build], Product],
    *,
    asset: str = "",
    **arguments: Any,
) -> dg.MaterializeResult:
    """Materialize an asset: `made` in the words of Dagster.

    Args:
        context: of the asset being materialized.
        store: where the product goes.
        config: of the asset; its content is part of the key.
        build: writes the files of the product.
        asset: its name, where one function makes several.
        arguments: further ones of `made`.

    Raises:
        dagster.Failure: with one sentence, for every HarError below.
    """
    with failures_in_words():
        name = asset or context.asset_key.to_user_string()
        return result_of(*made(context, store, config, build, name=name, **arguments))


def made(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    config: AssetConfig,
    build: Callable[[Build], Product],
    *,
    name: str,
    inputs: Iterable[str] | None = None,
    identity: dict[str, Any] | None = None,
    reusable: Callable[[Artifact], bool] = lambda artifact: True,
    mlflow: MlflowTracking | None = None,
) -> tuple[Artifact, bool]:
    """The product of a stage in a store, built unless it is published there, and whether it was. Raises HarError.

    Args:
        context: of the asset being materialized.
        store: where the product goes and its inputs are.
        config: of the stage; its content is part of the key.
        build: writes the files of the product.
        name: of the stage.
        inputs: names of the inputs, where they are not those of the table.
        identity: whatever else decides the content (the hash of a source file, say).
        reusable: False when a published version no longer holds (data removed by hand).
        mlflow: the build writes into the MLflow run of its inputs' model, which says how it ended.
    """
    end_with_run(context.instance, context.run.run_id)
    stage = STAGES[name]
    key = ProductKey(
        name,
        stage.version,
        config.content(),
        {upper: store.latest(upper) for upper in (stage.inputs if inputs is None else inputs)},
        identity or {},
    )

    def build_with_link(here: Build) -> Product:
        product = build(here)
        if mlflow and here.run.run_id:
            product.metadata["mlflow_run"] = mlflow.link(here.run.run_id)
        return product

    return find_or_build(
        store.folder,
        key,
        build_with_link,
        options=config.recorded(),
        force=config.force,
        reusable=reusable,
        run=lambda lineage: model_run(context, store, mlflow, name, lineage),
        log=context.log.info,
    )


@contextmanager
def model_run(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    mlflow: MlflowTracking | None,
    name: str,
    lineage: dict[str, Any],
) -> Iterator[RunLog]:
    """The MLflow run of a lineage, reopened for the asset `name`; one that writes nowhere without `mlflow`."""
    if mlflow is None:
        yield RunLog(None)
        return
    note_outbox(context, store, mlflow)
    with mlflow.continued_run(
        store.project_folder,
        lineage.get("mlflow_run_id", ""),
        step=name,
        dagster_run_id=context.run.run_id,
        report=context.log.warning,
    ) as run:
        yield run


def note_outbox(context: dg.AssetExecutionContext, store: ArtifactStore, mlflow: MlflowTracking) -> None:
    """Record where the MLflow run of this Dagster run can be ended, should the Dagster run die."""
    folder = mlflow.outbox_folder(store.project_folder)
    add_run_tags(context.instance, context.run.run_id, {OUTBOX_TAG: str(folder)})


def result_of(artifact: Artifact, unchanged: bool) -> dg.MaterializeResult:
    """Metadata of a published product for Dagster."""
    record = artifact.record
    figures = dict(record.metadata)
    pictures = figures.pop("pictures", [])
    usage = {f"usage/{name}": value for name, value in figures.pop("usage", {}).items()}
    metadata: dict[str, Any] = {
        "headline": record.headline,
        **{Path(name).stem: _picture(artifact.folder / name) for name in pictures},
        **{name: _value(value) for name, value in figures.items()},
    }
    housekeeping: dict[str, Any] = {
        "unchanged": unchanged,
        "folder": dg.MetadataValue.path(artifact.address),
        "dagster/uri": artifact.address if "://" in artifact.address else artifact.folder.as_uri(),
        "bytes": artifact.bytes,
        "seconds": record.seconds,
        "key": record.key,
        **({} if unchanged else usage),  # Dagster plots numbers over time: of work that was done, once
        **{f"lineage/{name}": value for name, value in record.lineage.items()},
    }
    for name, value in housekeeping.items():  # after the figures, which a person looks for first
        metadata.setdefault(name, value)
    main = MAIN.get(record.asset)
    if isinstance(main, Table):
        metadata["dagster/row_count"] = main.count(artifact.file(main.file))
    for name, entry in record.files.items():
        if len(record.files) <= 8:
            metadata[f"sha256/{name}"] = entry["sha256"]
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(record.asset),
        metadata=metadata,
        data_version=dg.DataVersion(record.data_version),
        check_results=check_results(record.asset, record.checks),
    )


def check_results(asset: str, checks: dict[str, dict[str, Any]]) -> list[dg.AssetCheckResult]:
    """Checks in the form of `Product.checks` as Dagster's."""
    return [
        dg.AssetCheckResult(
            check_name=name,
            asset_key=dg.AssetKey(asset),
            passed=bool(figures["passed"]),
            severity=dg.AssetCheckSeverity.WARN if figures.get("warning") else dg.AssetCheckSeverity.ERROR,
            metadata={key: _value(value) for key, value in figures.items() if key not in ("passed", "warning")},
        )
        for name, figures in checks.items()
    ]


def _value(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = [dg.TableColumn(name) for name in value[0]]
        rows = [
            dg.TableRecord({k: v if isinstance(v, (int, float, bool)) else str(v) for k, v in row.items()})
            for row in value[:200]
        ]
        return dg.MetadataValue.table(rows, dg.TableSchema(columns))
    if isinstance(value, (dict, list)):
        return dg.MetadataValue.json(value)
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    return value


def _picture(path: Path) -> dg.MetadataValue:
    """A PNG inside the metadata, so that the web UI shows it wherever it runs."""
    import base64

    if not path.is_file():
        return dg.MetadataValue.path(str(path))
    encoded = base64.b64encode(path.read_bytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{encoded})")
