"""runtime_benchmark: how fast the deployed model is in every runtime of this machine."""

import dagster as dg

from har_assets.dataset.folder import VIDEOS
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.assets.dataset import data_here
from har_assets.graph.publishing import publish
from har_assets.graph.resources.store import ArtifactStore
from har_assets.report.options import BENCHMARK_TABLE
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.store.product import Build, Product


class BenchmarkConfig(BenchmarkOptions, AssetConfig):
    """Options of the measurement."""

    clips: int = 32
    """Different clips of the test videos that are scored."""
    videos: int = 64
    """Test videos that are predicted from their files, decoding included; 0 leaves that out."""
    runtimes: list[str] = []
    """Names of runtimes; empty takes every one."""


@stage_asset("runtime_benchmark", BENCHMARK_TABLE)
def runtime_benchmark(
    context: dg.AssetExecutionContext, config: BenchmarkConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`runtime_benchmark.csv` and a chart: latency, clips a second, memory and start-up of every runtime here.

    On the same clips of the test videos, in turn; from video files too. What cannot run has its reason.
    """
    from har_assets.runtime.benchmark import describe_machine

    def product_of(build: Build) -> Product:
        from har_assets.report.benchmark import build_benchmark

        return build_benchmark(
            build,
            config,
            clips=config.clips,
            videos=config.videos,
            runtimes=config.runtimes,
            videos_folder=lambda: data_here(store) / VIDEOS,
            log=context.log.info,
        )

    # The figures are those of a machine: on another one, or after an update, they are measured again.
    return publish(context, store, config, product_of, identity={"machine": describe_machine()})
