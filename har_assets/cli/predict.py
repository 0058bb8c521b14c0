"""`har predict`: what action each video shows."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from har_assets.cli.output import Store, files_of, printable, progress_bar
from har_assets.errors import HarError
from har_assets.model.files import KINDS, ONNX
from har_assets.store.opening import open_store

TIMELINE = "A long video as a timeline"
"""Heading of the options of `har predict --timeline`."""


def predict(  # noqa: PLR0912
    context: typer.Context,
    videos: Annotated[list[str], typer.Argument(help="Video files, folders of them, or patterns such as 'a/*.avi'.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help=f"A {' or '.join(KINDS)} file; the latest that --runtime runs if left out, onnx_model for auto."
        ),
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
    files = [file for video in videos for file in files_of(video)]
    if not files:
        raise HarError(f"No videos in {', '.join(videos)}: name video files or folders that hold some.")
    predictor = open_model(model or latest_model(store, runtime), runtime)
    if predictor.provenance.synthetic:
        print("note: this model was trained on the built-in synthetic sample, not on real videos", file=sys.stderr)
    if timeline:
        from har_assets.cli.timeline import TimelineOptions, predict_timelines

        options = TimelineOptions(
            window,
            hop,
            smoothing,
            threshold,
            batch,
            timeout if "timeout" in given else None,
            as_json,
            as_csv,
            out,
            annotate,
            strip,
        )
        with progress_bar(seconds=True) as bar:
            failed = predict_timelines(predictor, files, options, bar, printable)
        if failed:
            raise typer.Exit(1)
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        table.writerow(["video", "rank", "label", "score"])
    failed = 0
    with progress_bar() as bar:
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
                print(printable(f"{found.video}: {found.reason}"), file=sys.stderr)
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
                print(printable(f"{found.video}{note}"))
                for label, score in ranking:
                    print(printable(f"  {score:6.1%}  {label}"))
    if failed:
        raise typer.Exit(1)


def latest_model(store: str, runtime: str) -> Path:
    """The latest published file that a runtime runs; for `auto` the ONNX file, which every machine can run.

    HarError where none is published, and where there is no runtime of that name.
    """
    from har_assets.runtime.choice import runtime_named

    kind = KINDS[Path(ONNX).suffix if runtime == "auto" else runtime_named(runtime).suffix]
    return open_store(store).latest(kind.asset).file(kind.file)


def _refuse_clashes(given: set[str], timeline: bool) -> None:
    """HarError for options that were given and say nothing together; names as in the signature of `predict`."""
    cut = {"window", "hop", "smoothing", "threshold", "out", "annotate", "strip"}
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
