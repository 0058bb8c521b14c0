"""`har bench`: every runtime that can run the model here, measured."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from har_assets.cli.output import Store, files_of, printable, progress_bar
from har_assets.errors import HarError, VideoError
from har_assets.model.files import KINDS
from har_assets.store.opening import open_store

if TYPE_CHECKING:
    from har_assets.model.spec import ModelSpec
    from har_assets.runtime.benchmark import Benchmark
    from har_assets.video.sampling import Clips

BENCH_CLIPS = 32
"""Videos whose centre windows `har bench` scores."""


def bench(
    model: Annotated[
        list[Path] | None, typer.Option(help="A model file, several times for several; the latest ones if left out.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option(help="Videos, folders or patterns, to measure from files and on their clips.")
    ] = None,
    runtime: Annotated[list[str] | None, typer.Option(help="Runtimes to measure; every one if left out.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32",
    rounds: Annotated[int, typer.Option(min=1, help="Calls of each runtime and batch size.")] = 20,
    windows: Annotated[int, typer.Option(min=1, help="Temporal clips a video.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, the machine in each line.")] = False,
    chart: Annotated[Path | None, typer.Option(help="PNG file for a chart.")] = None,
    store: Store = "",
) -> None:
    """Measure every runtime that can run the model here: latency, clips a second, memory, start-up.

    On clips of the videos, or on noise without any. Exit status 1 when none could be measured.
    """
    import dataclasses

    from har_assets.runtime import RUNTIMES, read_spec
    from har_assets.runtime.benchmark import run_benchmark
    from har_assets.runtime.benchmark_options import BenchmarkOptions

    unknown = sorted(set(runtime or ()) - set(RUNTIMES))
    if unknown:
        raise HarError(f"There is no runtime {', '.join(unknown)}: choose from {', '.join(RUNTIMES)}.")
    try:
        batch_sizes = [int(size) for size in batch.split(",")]
    except ValueError:
        raise HarError(f"{batch!r} are no batch sizes: write numbers with commas between them, 1,8,32.") from None
    options = BenchmarkOptions(batch_sizes=batch_sizes, rounds=rounds, windows=windows)
    options.check()
    models = model or latest_models(store)
    spec = read_spec(models[0])
    videos = [file for argument in video or () for file in files_of(argument)]
    if video and not videos:
        raise HarError(f"No videos in {', '.join(video)}: name video files or folders that hold some.")
    clips_BCTHW = _bench_clips(videos, spec)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        found = run_benchmark(
            models,
            clips_BCTHW,
            videos=videos,
            options=options,
            runtimes=runtime or (),
            log=lambda line: bar.update(task, description=line),
        )
    if chart:
        from har_assets.report.plots import plot_runtimes

        machine = found.machine
        plot_runtimes(
            [dataclasses.asdict(row) for row in found.rows],
            chart,
            title=f"{machine['cpu']}, {machine['cores']} cores, GPU: {machine['gpu']}",
        )
    if as_json:
        for row in found.rows:
            print(json.dumps({**dataclasses.asdict(row), "machine": found.machine}))
    elif as_csv:
        found.write_csv(sys.stdout)
    else:
        _print_benchmark(found)
    if found.fastest() is None:
        raise typer.Exit(1)


def _bench_clips(videos: list[Path], spec: "ModelSpec") -> "Clips":
    """Centre windows of the first videos that can be decoded, or noise without any video."""
    import numpy as np

    from har_assets.runtime.windows import read_windows

    if not videos:
        return np.random.default_rng(0).integers(0, 256, (8, *spec.clip_shape_CTHW), np.uint8)
    read = []
    for file in videos[:BENCH_CLIPS]:
        try:
            read.append(read_windows(file, spec, 1).clips_BCTHW)
        except VideoError as error:
            print(printable(f"{file} is left out: {error}"), file=sys.stderr)
    if not read:
        raise HarError("None of the videos could be decoded: name others, or leave --video out.")
    return np.concatenate(read)


def latest_models(store: str) -> list[Path]:
    """The latest published file of the kind that is deployed and, where there are such, of every other kind."""
    folder = open_store(store)
    deployed, *others = KINDS.values()
    found = [(deployed, folder.latest(deployed.asset)), *((kind, folder.find_latest(kind.asset)) for kind in others)]
    return [artifact.file(kind.file) for kind, artifact in found if artifact is not None]


def _print_benchmark(found: "Benchmark") -> None:
    """The measured rows as a table, the reasons of the others, and the machine."""
    columns = {
        "runtime": "runtime",
        "batch": "batch",
        "p50_ms": "p50 ms",
        "p95_ms": "p95",
        "p99_ms": "p99",
        "clips_per_s": "clips/s",
        "videos_per_s": "videos/s",
        "start_up_s": "start s",
        "memory_mb": "MB",
        "gpu_memory_mb": "GPU MB",
        "max_difference": "max |diff|",
    }
    rows = found.table()
    shown = {name: title for name, title in columns.items() if name in rows[0]} if rows else {}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, title in shown.items():
        table.add_column(title, justify="left" if name == "runtime" else "right", no_wrap=True)
    for row in rows:
        if row.get("batch"):
            table.add_row(*(str(row[name]) for name in shown))
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(table)
    for failed in found.rows:
        if failed.reason:
            console.print(f"{failed.runtime} ({failed.model}): {failed.reason}", markup=False, soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in found.machine.items()), markup=False, style="dim")
