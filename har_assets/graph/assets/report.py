"""evaluation_report: one page about a model's test figures, and its model card."""

import dagster as dg

from har_assets.dataset.folder import VIDEOS
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.assets.dataset import data_here
from har_assets.graph.publishing import publish
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.report.options import PAGE, ReportOptions
from har_assets.store.product import Build, Product


class ReportConfig(ReportOptions, AssetConfig):
    """Choice of the single videos on the page."""


@stage_asset("evaluation_report", PAGE)
def evaluation_report(
    context: dg.AssetExecutionContext, config: ReportConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`evaluation_report.html`: figures with intervals, confusions, mistakes and what the network looked at.

    One file that opens without a network. Beside it the model card (`README.md`) with the figures, and PNGs.
    """

    def product_of(build: Build) -> Product:
        from har_assets.report.build import Links, build_report

        return build_report(
            build,
            config,
            videos=lambda: data_here(store) / VIDEOS,
            links=Links(mlflow.dagster_asset_url, mlflow.link, mlflow.dagster_url(context.run.run_id)),
            log=context.log.info,
        )

    return publish(context, store, config, product_of, mlflow=mlflow)
