"""`har`: predictions, the state of the store, and set-up, without starting Dagster."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from har_assets.artifacts import Artifact, ArtifactFolder
from har_assets.errors import HarError, VideoError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

ROAD = (
    "raw_archive", "video_clips", "train_manifest", "val_manifest", "test_manifest", "class_index", "frame_cache",
    "pretrained_weights", "trained_checkpoint", "onnx_model", "trt_engine", "test_predictions",
)  # fmt: skip
"""Assets in the order in which they are made."""

Store = Annotated[Path, typer.Option("--store", help="Folder of published artifacts.")]


def main() -> None:
    """Entry point: a HarError becomes one line on stderr and exit status 1."""
    try:
        app()
    except HarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    model: Annotated[
        Path | None, typer.Option(help="A .ckpt or .onnx file; the latest onnx_model if left out.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    windows: Annotated[int, typer.Option(min=1, help="Temporal clips a video; their scores are averaged.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV: video, rank, label, score.")] = False,
    store: Store = Path("artifacts"),
) -> None:
    """Say what action each video shows. A file that cannot be read gets its line and makes the exit status 1."""
    from har_assets.runtime import open_model  # noqa: PLC0415
    from har_assets.runtime.video import predict_video  # noqa: PLC0415
    from har_assets.video.check import find_videos  # noqa: PLC0415

    model = model or ArtifactFolder(store).latest("onnx_model").file("video_action_model.onnx")
    predictor = open_model(model)
    if predictor.provenance.synthetic:
        print("note: this model was trained on the built-in synthetic sample, not on real videos", file=sys.stderr)
    console = Console(highlight=False)
    table = csv.writer(sys.stdout)
    if as_csv:
        table.writerow(["video", "rank", "label", "score"])
    failed = 0
    files = [file for video in videos for file in (find_videos(video) if video.is_dir() else [video])]
    for file in files:
        try:
            found = predict_video(predictor, file, windows=windows, top=top)
        except VideoError as error:
            failed += 1
            print(f"{file}: {error}", file=sys.stderr)
            continue
        ranking = list(zip(found.labels, found.scores, strict=True))
        if as_json:
            scores = [{"label": label, "score": round(score, 6)} for label, score in ranking]
            print(json.dumps({"video": str(file), "top": scores, "runtime": predictor.runtime, "note": found.note}))
        elif as_csv:
            table.writerows([file, rank, label, f"{score:.6f}"] for rank, (label, score) in enumerate(ranking, 1))
        else:
            note = f"  ({found.note})" if found.note else ""
            console.print(f"{file}{note}", markup=False)
            for label, score in ranking:
                console.print(f"  {score:6.1%}  {label}", markup=False)
    if not files:
        raise HarError(f"No videos in {', '.join(map(str, videos))}: name video files or folders that hold some.")
    if failed:
        raise typer.Exit(1)


@app.command()
def status(store: Store = Path("artifacts")) -> None:
    """Show every product: when it was made, how long that took, its size and its headline figure."""
    folder = ArtifactFolder(store)
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
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(table)
    engine = found["trt_engine"]
    if engine is not None:
        console.print(f"\nEngine:       {engine.file('video_action_model.engine')}", soft_wrap=True)
        console.print("Predict:      har predict VIDEO...")
        console.print("Web UI:       dagster dev            then http://127.0.0.1:3000/asset-groups")
        console.print("Experiments:  mlflow ui --backend-store-uri sqlite:///mlflow.db --port 8080")
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
    from rich.progress import Progress  # noqa: PLC0415

    from har_assets.video.check import check_folder  # noqa: PLC0415

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
            facts = {"video": str(video.path), "ok": video.ok, "problem": video.problem, "note": video.note,
                     "frames": video.frames, "height": video.height, "width": video.width, "fps": video.fps,
                     "decoder": video.decoder}  # fmt: skip
            print(json.dumps(facts))
        else:
            print(_printable(f"{video.path}: {video.problem or video.note}"))
    if not as_json:
        unreadable = sum(bool(video.problem) for video in found)
        print(f"{len(found):,} videos: {len(found) - len(bad):,} sound, {unreadable:,} without a frame, "
              f"{len(bad) - unreadable:,} with something odd.")  # fmt: skip
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
    from har_assets.doctor import PROBLEM, examine, to_json  # noqa: PLC0415

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


@app.command()
def init() -> None:
    """Create the databases of Dagster and MLflow in this folder, so that first runs do not race to do so."""
    from dagster import DagsterInstance  # noqa: PLC0415

    from har_assets.resources.mlflow import MlflowTracking  # noqa: PLC0415
    from har_assets.runs import release_dead_runs  # noqa: PLC0415

    # The dagster commands read ./dagster.yaml by themselves; its Python interface wants to be told.
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    with DagsterInstance.get() as instance:
        released = release_dead_runs(instance)
    if released:
        print(f"Runs whose process had died, now marked failed: {', '.join(released)}")
    MlflowTracking().create_database(Path.cwd())


@app.command()
def mlflow_sync(
    folder: Annotated[Path, typer.Argument(help="Folder in which steps keep what MLflow has not got.")] = Path(
        "mlflow_outbox"
    ),
) -> None:
    """Send what was logged while the MLflow server was away. Exit status 1 when some of it cannot be sent yet."""
    from har_assets.training.outbox import report_settled, settle  # noqa: PLC0415

    settled = settle(folder)
    report_settled(settled, print)
    if not settled:
        print(f"Nothing is kept in {folder}: MLflow has everything.")
    if any(result.left for result in settled):
        raise typer.Exit(1)


def _size(artifact: Artifact) -> str:
    count = artifact.bytes + artifact.record.metadata.get("video_bytes", 0)  # the videos themselves lie in data/
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    main()
