"""Say what happens in videos with the models made here, and look after this folder, without starting Dagster."""

import csv
import glob
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from har_assets.card_command import card
from har_assets.errors import HarError, VideoError
from har_assets.promotion_command import promote, rollback
from har_assets.prune_command import prune
from har_assets.status_rows import partitioned
from har_assets.store.bucket import open_store
from har_assets.store.record import Artifact

if TYPE_CHECKING:
    from rich.progress import Progress

    from har_assets.model.spec import ModelSpec
    from har_assets.runtime.benchmark import Benchmark
    from har_assets.runtime.predictor import Clips

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

ROAD = (
    "raw_archive",
    "video_clips",
    "train_manifest",
    "val_manifest",
    "test_manifest",
    "class_index",
    "frame_cache",
    "pretrained_weights",
    "trained_checkpoint",
    "onnx_model",
    "trt_engine",
    "serving_model",
    "test_predictions",
    "evaluation_report",
    "runtime_benchmark",
    "hmdb51_benchmark",
)
"""Assets in the order in which they are made."""

BENCH_CLIPS = 32
"""Videos whose centre windows `har bench` scores."""

TIMELINE = "A long video as a timeline"
"""Heading of the options of `har predict --timeline`."""

Store = Annotated[
    str, typer.Option("--store", help="Folder or s3:// address of the products; HAR_ARTIFACTS, else artifacts.")
]


def main() -> None:
    """Entry point: a HarError becomes one line on stderr and exit status 1."""
    try:
        app()
    except HarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def predict(  # noqa: PLR0912
    context: typer.Context,
    videos: Annotated[list[str], typer.Argument(help="Video files, folders of them, or patterns such as 'a/*.avi'.")],
    model: Annotated[
        Path | None, typer.Option(help="A .ckpt, .onnx or .engine file; the latest onnx_model if left out.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Most likely actions to show.")] = 5,
    runtime: Annotated[
        str, typer.Option(help="What runs the model, by its name in `har bench`; auto takes the fastest here.")
    ] = "auto",
    windows: Annotated[
        int, typer.Option(min=1, help="Clips looked at, spread over the video; scores are averaged.")
    ] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a video, one a line.")] = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="CSV: video, rank, label, score; of a timeline video, start, end, label, score."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Clips that the model scores at once.")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0 takes one a core.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one video may take to be decoded; a whole timeline: 4 hours.")
    ] = 120.0,
    store: Store = "",
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Say what happens from when to when.", rich_help_panel=TIMELINE)
    ] = False,
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds that are looked at at once; what the model was trained on if left out.",
            rich_help_panel=TIMELINE,
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(help="Seconds from one window to the next; half a window if left out.", rich_help_panel=TIMELINE),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(
            help="Seconds over which scores are averaged; two hops if left out, 0 for none.", rich_help_panel=TIMELINE
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Score from which an action is named.", rich_help_panel=TIMELINE)
    ] = 0.5,
    clip_fps: Annotated[
        float,
        typer.Option(help="Frames a second of the videos the model was trained on.", rich_help_panel=TIMELINE),
    ] = 30.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write VIDEO.timeline.csv and .json to.", rich_help_panel=TIMELINE),
    ] = None,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate",
            help="Write VIDEO.timeline.mp4 too: the action and its score on every frame.",
            rich_help_panel=TIMELINE,
        ),
    ] = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip",
            help="Write VIDEO.timeline.png too: thumbnails over the segments in colours.",
            rich_help_panel=TIMELINE,
        ),
    ] = False,
) -> None:
    """Say what action each video shows. A file that cannot be read gets its line and makes the exit status 1.

    A video that shows more than one action is cut into a timeline: har predict --timeline film.mp4 --out results
    """
    from har_assets.runtime import open_model
    from har_assets.runtime.video import VideoFailure, predict_videos

    if as_json and as_csv:
        raise HarError("--json and --csv exclude each other: choose one.")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    _refuse_clashes(given, timeline)
    files = [file for video in videos for file in _files_of(video)]
    if not files:
        raise HarError(f"No videos in {', '.join(videos)}: name video files or folders that hold some.")
    predictor = open_model(model or open_store(store).latest("onnx_model").file("video_action_model.onnx"), runtime)
    if predictor.provenance.synthetic:
        print("note: this model was trained on the built-in synthetic sample, not on real videos", file=sys.stderr)
    if timeline:
        from har_assets.timeline_command import TimelineOptions, predict_timelines

        options = TimelineOptions(
            window,
            hop,
            smoothing,
            threshold,
            clip_fps,
            batch,
            timeout if "timeout" in given else None,
            as_json,
            as_csv,
            out,
            annotate,
            strip,
        )
        with _progress(seconds=True) as bar:
            failed = predict_timelines(predictor, files, options, bar, _printable)
        if failed:
            raise typer.Exit(1)
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        table.writerow(["video", "rank", "label", "score"])
    failed = 0
    with _progress() as bar:
        if not bar.disable:
            bar.console.print(f"{predictor.runtime}: {predictor.why}", style="dim", markup=False)
        task = bar.add_task("predicting", total=len(files))
        for found in predict_videos(
            predictor,
            files,
            windows=windows,
            top=top,
            batch=batch,
            workers=workers or None,
            timeout_s=timeout,
            done=lambda: bar.advance(task),
        ):
            if isinstance(found, VideoFailure):
                failed += 1
                print(_printable(f"{found.video}: {found.reason}"), file=sys.stderr)
                continue
            ranking = list(zip(found.labels, found.scores, strict=True))
            if as_json:
                scores = [{"label": label, "score": round(score, 6)} for label, score in ranking]
                print(
                    json.dumps({"video": found.video, "top": scores, "runtime": predictor.runtime, "note": found.note}),
                    flush=True,
                )
            elif as_csv:
                table.writerows(
                    [found.video, rank, label, f"{score:.6f}"] for rank, (label, score) in enumerate(ranking, 1)
                )
            else:
                note = f"  ({found.note})" if found.note else ""
                print(_printable(f"{found.video}{note}"))
                for label, score in ranking:
                    print(_printable(f"  {score:6.1%}  {label}"))
    if failed:
        raise typer.Exit(1)


def _refuse_clashes(given: set[str], timeline: bool) -> None:
    """HarError for options that were given and say nothing together; names as in the signature of `predict`."""
    cut = {"window", "hop", "smoothing", "threshold", "clip_fps", "out", "annotate", "strip"}
    whole = {
        "top": "a timeline names the best action of each moment",
        "windows": "it counts clips over a whole video, a timeline is cut by --window and --hop",
        "workers": "one film is decoded by one process",
    }
    for name in sorted(given & cut if not timeline else ()):
        option = "--" + name.replace("_", "-")
        raise HarError(f"{option} is an option of --timeline: add --timeline or leave {option} out.")
    for name in sorted(given & whole.keys() if timeline else ()):
        raise HarError(f"--{name} and --timeline exclude each other ({whole[name]}): leave one out.")
    for name in sorted({"annotate", "strip"} & given if "out" not in given else ()):
        raise HarError(f"--{name} writes a file and there is no --out to say where: add --out FOLDER.")


def _files_of(argument: str) -> list[Path]:
    """The videos that an argument of `har predict` means; a file that is not there is found missing later."""
    from har_assets.video.check import find_videos

    path = Path(argument)
    if path.is_dir():
        return find_videos(path)
    # Names of real clips hold [ ] and *: a pattern is what is no file.
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    return [match for match in matches if match.is_file()]


def _progress(*, seconds: bool = False) -> "Progress":
    """A bar on stderr, and in a terminal only: what is piped or redirected holds results and nothing else.

    It counts videos, or shows the share of the seconds of one.
    """
    from rich.progress import MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    return Progress(
        *Progress.get_default_columns()[:2],
        TaskProgressColumn() if seconds else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
        disable=not sys.stderr.isatty(),
        # In a terminal results are written above the bar; in a pipe they stay what they are.
        redirect_stdout=sys.stdout.isatty(),
    )


@app.command()
def explain(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    out: Annotated[Path | None, typer.Option(help="WebP file to write; VIDEO.webp here if left out.")] = None,
    label: Annotated[str, typer.Option(help="Class to explain; the model's answer if left out.")] = "",
    model: Annotated[Path | None, typer.Option(help="A .ckpt file; the latest trained_checkpoint if left out.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Temporal clips; the one with the highest score is shown.")] = 4,
    store: Store = "",
) -> None:
    """Show where and when a video speaks for the model's answer, as a moving picture beside the frames (Grad-CAM)."""
    import numpy as np

    from har_assets.model.saliency import class_saliency
    from har_assets.report.frames import moving_webp, shown_from_video, with_heat
    from har_assets.runtime.checkpoint import CheckpointPredictor
    from har_assets.runtime.video import ranked, read_windows
    from har_assets.video.sampling import window_starts

    target = out or Path(f"{video.stem}.webp")
    if target.suffix != ".webp":
        raise HarError(f"{target} is no .webp file, which is what is written: give another name.")
    path = model or open_store(store).latest("trained_checkpoint").file("video_action_model.ckpt")
    predictor = CheckpointPredictor(path)
    spec = predictor.spec
    if label and label not in spec.labels:
        raise HarError(f"The model has no class {label!r}: choose one of {', '.join(spec.labels)}.")
    read = read_windows(video, spec, windows)
    (answer, *_), (score, *_) = ranked(predictor.predict(read.clips_BCTHW).mean(axis=0), spec.labels, 1)
    found = class_saliency(predictor.model, read.clips_BCTHW, spec.labels.index(label or answer))
    kept = -(-read.num_source_frames // spec.frame_stride)
    start = window_starts(kept, spec.num_frames, windows)[found.clip]
    shown = shown_from_video(video, spec, start)
    both_THWC = np.concatenate([shown.frames_THWC, with_heat(shown, found.heat_THW)], axis=2)
    try:
        target.write_bytes(moving_webp(both_THWC, shown.frame_ms))
    except OSError as error:
        raise HarError(f"{target} cannot be written ({error.strerror}): name another file by --out.") from None
    print(_printable(f"{video}: {answer} ({score:.1%})"))
    nothing = "" if found.heat_THW.any() else " (nothing does)"
    print(_printable(f"{target} shows what speaks for {label or answer}{nothing}"))


@app.command()
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
    from har_assets.runtime.benchmark import BenchmarkOptions, run_benchmark

    unknown = sorted(set(runtime or ()) - set(RUNTIMES))
    if unknown:
        raise HarError(f"There is no runtime {', '.join(unknown)}: choose from {', '.join(RUNTIMES)}.")
    try:
        options = BenchmarkOptions(tuple(int(size) for size in batch.split(",")), rounds, windows=windows)
    except ValueError:
        raise HarError(f"{batch!r} are no batch sizes: write numbers with commas between them, 1,8,32.") from None
    models = model or _latest_models(store)
    spec = read_spec(models[0])
    videos = [file for argument in video or () for file in _files_of(argument)]
    if video and not videos:
        raise HarError(f"No videos in {', '.join(video)}: name video files or folders that hold some.")
    clips_BCTHW = _bench_clips(videos, spec)
    with _progress() as bar:
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

    from har_assets.runtime.video import read_windows

    if not videos:
        return np.random.default_rng(0).integers(0, 256, (8, *spec.clip_shape_CTHW), np.uint8)
    read = []
    for file in videos[:BENCH_CLIPS]:
        try:
            read.append(read_windows(file, spec, 1).clips_BCTHW)
        except VideoError as error:
            print(_printable(f"{file} is left out: {error}"), file=sys.stderr)
    if not read:
        raise HarError("None of the videos could be decoded: name others, or leave --video out.")
    return np.concatenate(read)


def _latest_models(store: str) -> list[Path]:
    """The latest published ONNX file and, where there are such, checkpoint and engine."""
    folder = open_store(store)
    models = [folder.latest("onnx_model").file("video_action_model.onnx")]
    for asset, name in (("trained_checkpoint", "video_action_model.ckpt"), ("trt_engine", "video_action_model.engine")):
        artifact = folder.find_latest(asset)
        if artifact is not None:
            models.append(artifact.file(name))
    return models


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


@app.command()
def status(store: Store = "") -> None:
    """Show every product: when it was made, how long that took, its size and its headline figure."""
    folder = open_store(store)
    found = {asset: folder.find_latest(asset) for asset in ROAD}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, justify in (("asset", "left"), ("time", "right"), ("size", "right"), ("what it is", "left")):
        table.add_column(column, justify=justify, no_wrap=column != "what it is")  # type: ignore[arg-type]
    for asset, artifact in found.items():
        if artifact is None:
            table.add_row(asset, "", "", "[dim]not materialized[/dim]")
        else:
            record = artifact.record
            table.add_row(asset, f"{record.seconds:.1f} s", _size(artifact), record.headline)
    for asset, row in partitioned(folder):
        size = _in_bytes(row.size) if row else ""
        table.add_row(asset, "", size, Text(_printable(row.words)) if row else "[dim]not materialized[/dim]")
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(table)
    report = found["evaluation_report"]
    if report is not None:
        console.print(f"\nReport:       {report.file('evaluation_report.html')}", soft_wrap=True)
    engine = found["trt_engine"]
    if engine is not None:
        console.print(f"\nEngine:       {engine.file('video_action_model.engine')}", soft_wrap=True)
        console.print("Predict:      har predict VIDEO...")
        console.print("Web UI:       dagster dev            then http://127.0.0.1:3000/asset-groups")
        uri = os.environ.get("HAR_MLFLOW_URI") or "sqlite:///mlflow.db"
        if "://" in uri and not uri.startswith("http"):
            uri = f"mlflow ui --backend-store-uri {uri} --port 8080"
        console.print(f"Experiments:  {uri}", markup=False, soft_wrap=True)
        if engine.record.lineage.get("synthetic"):
            console.print("\nThe videos are the built-in synthetic sample: the figures say nothing about real ones.")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of videos, at any depth.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a core.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one video may take.")] = 120.0,
) -> None:
    """Decode every video of a folder from end to end and list what is wrong. Exit status 1 when something is."""
    from rich.progress import Progress

    from har_assets.video.check import check_folder

    # On stderr and in a terminal only: what is piped or redirected holds findings and nothing else.
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("decoding", total=None)
        found = check_folder(
            folder,
            workers=workers or None,
            timeout_s=timeout,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    bad = [video for video in found if not video.ok]
    for video in found if as_json else bad:
        if as_json:
            facts = {
                "video": str(video.path),
                "ok": video.ok,
                "problem": video.problem,
                "note": video.note,
                "frames": video.frames,
                "height": video.height,
                "width": video.width,
                "fps": video.fps,
                "decoder": video.decoder,
            }
            print(json.dumps(facts))
        else:
            print(_printable(f"{video.path}: {video.problem or video.note}"))
    if not as_json:
        unreadable = sum(bool(video.problem) for video in found)
        print(
            f"{len(found):,} videos: {len(found) - len(bad):,} sound, {unreadable:,} without a frame, "
            f"{len(bad) - unreadable:,} with something odd."
        )
    if bad:
        raise typer.Exit(1)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of findings.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mark dead runs failed, free their slots, remove what they left.")
    ] = False,
) -> None:
    """Look over this machine, environment and folder: what is wrong and what to do. Exit status 1 for a problem."""
    from har_assets.doctor import PROBLEM, examine, to_json

    findings = examine(Path.cwd(), fix=fix)
    if as_json:
        print(to_json(findings))
    else:
        colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("check", "state", "what there is"):
            table.add_column(column, no_wrap=column != "what there is", overflow="fold")
        for finding in findings:
            said = _printable(finding.found) + (f"\n→ {_printable(finding.remedy)}" if finding.remedy else "")
            table.add_row(finding.check, Text(finding.state, style=colours[finding.state]), Text(said))
        console = Console(highlight=False)
        console.width = max(console.width, 110)
        console.print(table)
    if any(finding.state == PROBLEM for finding in findings):
        raise typer.Exit(1)


def _printable(text: str) -> str:
    """Text that any terminal can show: control characters and what the encoding lacks are written as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")


app.command()(prune)
app.command()(card)


@app.command()
def init() -> None:
    """Create the databases of Dagster and MLflow in this folder, so that first runs do not race to do so."""
    from dagster import DagsterInstance

    from har_assets.resources.mlflow import MlflowTracking
    from har_assets.runs import release_dead_runs

    # The dagster commands read ./dagster.yaml by themselves; its Python interface wants to be told.
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    with DagsterInstance.get() as instance:
        released = release_dead_runs(instance)
        # On PostgreSQL, one of two runs that both make the pool at once fails.
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    if released:
        print(f"Runs whose process had died, now marked failed: {', '.join(released)}")
    MlflowTracking().create_database(Path.cwd())


app.command()(promote)
app.command()(rollback)


@app.command()
def mlflow_sync(
    folder: Annotated[Path, typer.Argument(help="Folder in which steps keep what MLflow has not got.")] = Path(
        "mlflow_outbox"
    ),
) -> None:
    """Send what was logged while the MLflow server was away. Exit status 1 when some of it cannot be sent yet."""
    from har_assets.tracking.outbox import report_settled, settle

    settled = settle(folder)
    report_settled(settled, print)
    if not settled:
        print(f"Nothing is kept in {folder}: MLflow has everything.")
    if any(result.left for result in settled):
        raise typer.Exit(1)


def _size(artifact: Artifact) -> str:
    count = artifact.bytes + artifact.record.metadata.get("video_bytes", 0)  # the videos themselves lie in data/
    return _in_bytes(count)


def _in_bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    main()
