"""runtime_benchmark: how fast the deployed model is in every runtime of this machine."""

import dataclasses

import dagster as dg

from har_assets.cluster.needs import needs
from har_assets.dataset.folder import VIDEOS
from har_assets.dataset.manifests import read_manifest_of
from har_assets.errors import HarError
from har_assets.graph.assets.dataset import data_here
from har_assets.graph.assets.deployment import ENGINE, ONNX, windows_of
from har_assets.graph.assets.training import CHECKPOINT
from har_assets.graph.publishing import AssetConfig, publish
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.product import Build, Product

UPSTREAM = ("onnx_model", "trained_checkpoint", "trt_engine", "test_manifest", "frame_cache")


class BenchmarkConfig(AssetConfig):
    """What is measured and how often."""

    batch_sizes: list[int] = [1, 8, 32]
    """Clips a call."""
    rounds: int = 20
    """Times that each runtime is asked for each batch size, in turn with the others."""
    max_seconds: float = 30.0
    """Seconds of a runtime and batch size after which no further round is asked; three rounds are always made."""
    clips: int = 32
    """Different clips of the test videos that are scored."""
    videos: int = 64
    """Test videos that are predicted from their files, decoding included; 0 leaves that out."""
    windows: int = 4
    """Temporal clips a video."""
    runtimes: list[str] = []
    """Names of runtimes; empty takes every one."""


@dg.asset(
    deps=list(UPSTREAM),
    group_name="deployment",
    kinds={"python"},
    code_version="1",
    pool="gpu",
    op_tags=needs(gpus=1),
    tags={"har/stage": "deployment"},
)
def runtime_benchmark(
    context: dg.AssetExecutionContext, config: BenchmarkConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`runtime_benchmark.csv` and a chart: latency, clips a second, memory and start-up of every runtime here.

    On the same clips of the test videos, in turn; from video files too. What cannot run has its reason.
    """
    from har_assets.runtime.benchmark import describe_machine

    def product_of(build: Build) -> Product:
        import numpy as np

        from har_assets.report.plots import plot_runtimes
        from har_assets.runtime import read_spec
        from har_assets.runtime.benchmark import BenchmarkOptions, run_benchmark

        options = BenchmarkOptions(tuple(config.batch_sizes), config.rounds, config.max_seconds, config.windows)
        onnx = build.inputs["onnx_model"].file(ONNX)
        models = (
            build.inputs["trained_checkpoint"].file(CHECKPOINT),
            onnx,
            build.inputs["trt_engine"].file(ENGINE),
        )
        spec = read_spec(onnx)
        windows, _ = windows_of(("test",), build.inputs, spec, config.clips)
        clips_BCTHW = np.concatenate([batch_BCTHW for batch_BCTHW, _ in windows.batches()])
        names = list(read_manifest_of(build.inputs["test_manifest"], "test")["clip"])[: config.videos]
        found = run_benchmark(
            models,
            clips_BCTHW,
            videos=[data_here(store) / VIDEOS / name for name in names],
            options=options,
            runtimes=config.runtimes,
            log=context.log.info,
        )
        best = found.fastest()
        if best is None:
            reasons = "; ".join(f"{row.runtime}: {row.reason}" for row in found.rows)
            raise HarError(f"No runtime could be measured ({reasons}): run `har doctor`.")
        with (build.folder / "runtime_benchmark.csv").open("w", newline="") as table:
            found.write_csv(table)
        machine = found.machine
        plot_runtimes(
            [dataclasses.asdict(row) for row in found.rows],
            build.folder / "runtime_benchmark.png",
            title=f"{spec.network}, clips of {spec.num_frames} x {spec.frame_height} x {spec.frame_width}; "
            f"{machine['cpu']}, {machine['cores']} cores, GPU: {machine['gpu']}",
        )
        return Product(
            headline=f"{best.runtime} is the fastest: {best.clips_per_s:,.0f} clips/s at batch {best.batch}",
            metadata={
                "runtimes": found.table(),
                "machine": machine,
                "clips": found.clips,
                "videos": found.videos,
                "fastest": best.runtime,
            },
            pictures=("runtime_benchmark.png",),
        )

    # The figures are those of a machine: on another one, or after an update, they are measured again.
    return publish(context, store, config, product_of, upstream=UPSTREAM, identity={"machine": describe_machine()})
