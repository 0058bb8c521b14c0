"""The product of runtime_benchmark: how fast the deployed model is in every runtime of a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from har_assets.dataset.manifests import read_manifest
from har_assets.errors import HarError
from har_assets.model.files import CHECKPOINT, ENGINE, ONNX
from har_assets.model.windows import windows_of
from har_assets.report.options import BENCHMARK_TABLE
from har_assets.report.plots import plot_runtimes
from har_assets.runtime import read_spec
from har_assets.runtime.benchmark import run_benchmark
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.store.product import Build, Product
from har_assets.system.files import Log

CHART = "runtime_benchmark.png"


def build_benchmark(
    build: Build,
    options: BenchmarkOptions,
    *,
    clips: int,
    videos: int,
    runtimes: list[str],
    videos_folder: Callable[[], Path],
    log: Log,
) -> Product:
    """The product of runtime_benchmark: a table and a chart.

    Args:
        build: inputs onnx_model, trained_checkpoint, trt_engine, test_manifest and frame_cache.
        options: how long and on what.
        clips: different clips of the test videos that are scored.
        videos: test videos that are predicted from their files; 0 leaves that out.
        runtimes: names to measure; none takes all.
        videos_folder: gives the folder that the names of clips are relative to.
        log: takes a line a step.

    Raises:
        HarError: nothing could be measured, or no test video was decoded.
    """
    options.check()
    onnx = build.inputs["onnx_model"].file(ONNX)
    models = (build.inputs["trained_checkpoint"].file(CHECKPOINT), onnx, build.inputs["trt_engine"].file(ENGINE))
    spec = read_spec(onnx)
    windows, _ = windows_of(("test",), build.inputs, spec, clips)
    clips_BCTHW = np.concatenate([batch_BCTHW for batch_BCTHW, _ in windows.batches()])
    names = list(read_manifest(build.inputs["test_manifest"].file("test.csv"))["clip"])[:videos]
    videos_here = [videos_folder() / name for name in names]
    found = run_benchmark(
        models,
        clips_BCTHW,
        videos=videos_here,
        options=options,
        runtimes=runtimes,
        log=log,
    )
    best = found.fastest()
    if best is None:
        reasons = "; ".join(f"{row.runtime}: {row.reason}" for row in found.rows)
        raise HarError(f"No runtime could be measured ({reasons}): run `har doctor`.")
    with (build.folder / BENCHMARK_TABLE.file).open("w", newline="") as table:
        found.write_csv(table)
    machine = found.machine
    plot_runtimes(
        [dataclasses.asdict(row) for row in found.rows],
        build.folder / CHART,
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
        pictures=(CHART,),
    )
