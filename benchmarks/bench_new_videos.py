"""New videos: the cost of a tick, the time from drop to prediction, many videos at once against `har predict`.

    python -m benchmarks.bench_new_videos [--only tick table latency many] [--videos FOLDER]
        [--known 100000] [--new 100]

`tick` looks at a folder of that many files through the sensor itself, with a Dagster instance on disk. `table` brings
predictions.csv up to date where that many results are known, which a run does once, at its end. `latency` and
`many` run `dagster dev` in a new project with an untrained net of the default size, which is as fast as a trained one;
clips are the real ones where they are at hand, each copy made another file by a few bytes at its end.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.bench_frame_cache import find_clips
from benchmarks.bench_predict import fresh_model
from har_assets.system.files import hash_of
from har_assets_tests.incoming.server import DagsterDev, current, dagster_dev, instance_of, publish_model, wait_for
from har_assets_tests.project import Project


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--only", nargs="+", choices=("tick", "table", "latency", "many"), default=["tick", "table", "latency", "many"]
    )
    arguments.add_argument("--videos", type=Path)
    arguments.add_argument("--known", type=int, default=100_000)
    arguments.add_argument("--new", type=int, default=100)
    arguments.add_argument("--interval", type=int, default=30, help="seconds between two looks of the sensor")
    arguments.add_argument("--drops", type=int, default=5)
    arguments.add_argument("--many", type=int, default=500)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "tick" in options.only:
            tick(folder, options)
        if "table" in options.only:
            table(folder / "table", options)
        if {"latency", "many"} & set(options.only):
            clips = find_clips(options.videos, folder / "sources")
            onnx, _ = fresh_model(folder)
            if "latency" in options.only:
                latency(folder, clips, onnx, options)
            if "many" in options.only:
                many(folder, clips, onnx, options)
    print(f"load after {os.getloadavg()[0]:.1f}")


def new_project(folder: Path, onnx: Path) -> Project:
    """A project with a published model and an empty folder of new videos."""
    project = Project.make(folder)
    publish_model(project, onnx)
    (folder / "incoming").mkdir()
    done = project.run("har_assets.cli", "init")
    if done.returncode:
        raise SystemExit(done.stderr)
    return project


def tick(folder: Path, options: argparse.Namespace) -> None:
    """Cost of one tick with many known files and some new ones."""
    from har_assets.graph.resources.incoming import IncomingVideos
    from har_assets.graph.resources.store import ArtifactStore
    from har_assets.graph.sensors.incoming import new_video_sensor

    (folder / "model.bin").write_bytes(b"a tick does not look into it")
    project = new_project(folder / "tick", folder / "model.bin")
    incoming = project.folder / "incoming"
    make_files(incoming, 0, options.known)
    resources: dict[str, Any] = {
        "store": ArtifactStore(project=str(project.folder)),
        "incoming": IncomingVideos(folder=str(incoming), still_seconds=0, videos_a_run=options.known),
    }
    cursor: str | None = None

    def look(instance: dg.DagsterInstance) -> tuple[float, float, Any]:
        context = dg.build_sensor_context(instance, cursor=cursor, resources=resources)
        began, cpu = time.perf_counter(), time.process_time()
        result = new_video_sensor.evaluate_tick(context)
        return time.perf_counter() - began, time.process_time() - cpu, result

    with instance_of(project) as instance:
        first, _, result = look(instance)
        cursor = result.cursor
        for request in result.dynamic_partitions_requests:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        succeed(instance, result)
        listing, with_facts = floor(incoming)
        settle_s, _, result = look(instance)
        cursor = result.cursor
        nothing, news = [], []
        for number in range(options.repeats):
            nothing.append(look(instance)[:2])
            make_files(incoming, options.known + number * options.new, options.new)
            *seconds, result = look(instance)
            news.append(seconds)
            cursor = result.cursor
            asked = int(result.run_requests[0].tags["har/videos"])
            if asked != options.new:
                raise SystemExit(f"{asked} videos were asked for instead of {options.new}")
            for request in result.dynamic_partitions_requests:
                instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            succeed(instance, result)
            look(instance)
    ledger = project.folder / "artifacts/incoming_video_predictions/.known_videos.sqlite"
    print(f"tick, {options.known:,} known files")
    print(f"  listing alone             {listing:7.3f} s; with size and times of each file {with_facts:.3f} s")
    print(f"  all of them new           {first:7.3f} s; the one that notes them as done {settle_s:.3f} s")
    for what, times in (("nothing new", nothing), (f"{options.new:,} new", news)):
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        print(f"  {what:24} {wall:8.3f} s, {cpu:.3f} s of CPU")
    print(f"  cursor {len(cursor or ''):,} bytes; ledger beside the store {ledger.stat().st_size / 1e6:.1f} MB")


def table(home: Path, options: argparse.Namespace) -> None:
    """Seconds to bring the table of all results up to date."""
    from har_assets.incoming.results import PREDICTIONS, Results, update_table

    results = Results(home, {"model_sha256": "a benchmark"})

    def predict(first: int, count: int) -> None:
        for number in range(first, first + count):
            results.write(
                {
                    "video": f"camera_{number % 7}/{number:07d}.mp4",
                    "partition": f"{number:07d}-0123456789ab",
                    "content_sha256": hash_of(number),
                    "reason": "",
                    "note": "",
                    "timeline": None,
                    "frames": 90,
                    "runtime": "OpenVINO bf16 CPU",
                    "predicted": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "model": {"version": "0123456789ab", "sha256": hash_of("model")},
                    "top": [{"label": f"class {rank}", "score": 0.2} for rank in range(5)],
                }
            )

    def seconds() -> float:
        began = time.perf_counter()
        update_table(home, print)
        return time.perf_counter() - began

    predict(0, options.known)
    print(f"predictions.csv, {options.known:,} results")
    print(
        f"  made from the results          {seconds():7.3f} s; {(home / PREDICTIONS.file).stat().st_size / 1e6:.1f} MB"
    )
    time.sleep(11)  # results younger than ten seconds are read twice
    known = options.known
    for count in (0, 1, options.new):
        taken = []
        for _ in range(options.repeats):
            predict(known, count)
            known += count
            taken.append(seconds())
        a_video = f", {1000 * statistics.median(taken) / count:.1f} ms a video" if count else ""
        print(f"  a run with {count:5,} new videos     {statistics.median(taken):7.3f} s{a_video}")


def make_files(folder: Path, first: int, count: int) -> None:
    """Empty files named as videos."""
    for number in range(first, first + count):
        (folder / f"camera_{number % 7}_{number:07d}.mp4").touch()


def floor(folder: Path) -> tuple[float, float]:
    """Median seconds of a listing alone, and of one with the facts of each file."""
    bare, full = [], []
    for _ in range(3):
        began = time.perf_counter()
        sum(1 for _ in os.scandir(folder))
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        for entry in os.scandir(folder):
            entry.stat()
        full.append(time.perf_counter() - began)
    return statistics.median(bare), statistics.median(full)


def succeed(instance: dg.DagsterInstance, result: Any) -> None:
    """A run of the request that has ended well, without running it."""
    (request,) = result.run_requests
    instance.create_run_for_job(
        nothing_job, status=dg.DagsterRunStatus.SUCCESS, tags={**request.tags, "dagster/run_key": request.run_key}
    )


@dg.job
def nothing_job() -> None:
    """A job to make runs of."""


def copies(clips: list[Path], count: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of videos, no two alike."""
    for number in range(count):
        clip = clips[number % len(clips)]
        # Behind the end of an AVI nothing is read; it makes the content another one.
        yield f"{number:04d}_{clip.name}", clip.read_bytes() + f"JUNK{number:08d}".encode()


@contextmanager
def watched(project: Project, options: argparse.Namespace) -> Iterator[DagsterDev]:
    """`dagster dev` with the sensor switched on, warm: it has looked once."""
    with dagster_dev(project, options.interval) as server:
        server.switch_on("new_video_sensor")
        ledger = project.folder / "artifacts/incoming_video_predictions/.known_videos.sqlite"
        wait_for(ledger.exists, options.interval + 60, "the first tick")
        yield server


def listed(project: Project, name: str) -> bool:
    """Whether the table has a line of that video."""
    return name in current(project)


def latency(folder: Path, clips: list[Path], onnx: Path, options: argparse.Namespace) -> None:
    """Time from the drop of one video to its line in the table, at different moments of the interval."""
    project = new_project(folder / "latency", onnx)
    taken = []
    with watched(project, options):
        for number, (name, content) in enumerate(copies(clips, options.drops)):
            time.sleep(options.interval * (number + 0.5) / options.drops)
            began = time.monotonic()
            (project.folder / "incoming" / name).write_bytes(content)
            wait_for(partial(listed, project, name), 10 * options.interval + 60, name)
            taken.append(time.monotonic() - began)
    print(
        f"from drop to prediction, sensor interval {options.interval} s: " + ", ".join(f"{s:.1f}" for s in taken) + " s"
    )
    print(f"  longest {max(taken):.1f} s, {max(taken) - options.interval:+.1f} s beyond the interval")


def many(folder: Path, clips: list[Path], onnx: Path, options: argparse.Namespace) -> None:
    """Many videos at once: the run that predicts them against `har predict` on the same files."""
    project = new_project(folder / "many", onnx)
    staged = folder / "many_staged"
    staged.mkdir()
    for name, content in copies(clips, options.many):
        (staged / name).write_bytes(content)

    def har_predict() -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "har_assets.cli", "predict", str(staged), "--model", str(onnx), "--json"],
            env=project.environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.monotonic() - began

    before = har_predict()
    with watched(project, options):
        incoming = project.folder / "incoming"
        dropped = time.time()
        for path in sorted(staged.iterdir()):
            shutil.move(path, incoming / path.name)
        wait_for(lambda: len(current(project)) == options.many, 1800, "all predictions", every_s=1)
        with instance_of(project) as instance:
            wait_for(finished(instance), 120, "the end of the run")
            records = instance.get_run_records()
            phases = [phases_of(instance, record.dagster_run.run_id) for record in records]
            runs = [(record.start_time, record.end_time) for record in records]
    for path in sorted((project.folder / "incoming").iterdir()):
        shutil.move(path, staged / path.name)
    after = har_predict()
    reference = statistics.mean((before, after))
    spent = sum(end - start for start, end in runs if start and end)
    ended = max(end for _, end in runs if end)
    print(f"{options.many} videos at once: {len(runs)} run(s)")
    print(f"  har predict, before and after    {before:.1f} s, {after:.1f} s: {options.many / reference:.1f} videos/s")
    print(f"  run(s), from start to end        {spent:.1f} s: {options.many / spent:.1f} videos/s")
    for line in phases:
        print(f"    {line}")
    print(f"  throughput of the run against it {reference / spent:.2f} x")
    print(f"  from the drop to the end         {ended - dropped:.1f} s, sensor interval {options.interval} s")


def phases_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Seconds from the start of a run to what follows."""
    events = [entry for entry in instance.all_logs(run_id) if entry.is_dagster_event]
    at: dict[str, list[float]] = {}
    for entry in events:
        at.setdefault(str(entry.get_dagster_event().event_type_value), []).append(entry.timestamp)
    began = at["PIPELINE_START"][0]
    made = at["ASSET_MATERIALIZATION"]
    return (
        f"its step began after {at['STEP_START'][0] - began:.1f} s, noted the first video after "
        f"{made[0] - began:.1f} s, the last after {made[-1] - began:.1f} s, ended after "
        f"{at['PIPELINE_SUCCESS'][0] - began:.1f} s"
    )


def finished(instance: dg.DagsterInstance) -> Callable[[], bool]:
    """Whether every run has ended."""
    return lambda: all(run.is_finished for run in instance.get_runs())


if __name__ == "__main__":
    main()
