"""`har predict --timeline`: what happens in films from when to when, printed and written to files."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from har_assets.errors import HarError, VideoError
from har_assets.system.files import remove_partials, written_whole

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from har_assets.runtime.predictor import Predictor
    from har_assets.runtime.timeline import Timeline


@dataclass(frozen=True)
class TimelineOptions:
    """How films are cut and what is written. None takes the default of `predict_timeline`."""

    window_s: float | None
    hop_s: float | None
    smoothing_s: float | None
    threshold: float
    batch: int
    timeout_s: float | None
    as_json: bool
    as_csv: bool
    out: Path | None
    """Folder for NAME.timeline.csv and NAME.timeline.json."""
    annotate: bool
    """NAME.timeline.mp4 too."""
    strip: bool
    """NAME.timeline.png too."""

    def suffixes(self) -> list[str]:
        """Suffixes of the files that are written."""
        return ["csv", "json", *(["png"] if self.strip else []), *(["mp4"] if self.annotate else [])]


def predict_timelines(
    predictor: Predictor,
    films: Sequence[Path],
    options: TimelineOptions,
    bar: Progress,
    printable: Callable[[str], str],
) -> int:
    """Print and write the timeline of each film; return how many films have none.

    Raises:
        HarError: options that clash, or a file that cannot be written.
    """
    if options.out is not None:
        _require_folder(options.out, films, options)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if options.as_csv:
        table.writerow(["video", "start_s", "end_s", "label", "score"])
    failed = 0
    for film in films:
        try:
            found, speed = _predict(predictor, film, options, bar)
        except VideoError as error:
            failed += 1
            print(printable(f"{film}: {error}"), file=sys.stderr)
            continue
        facts = {**found.to_dict(), "runtime": predictor.runtime}
        if options.as_json:
            print(json.dumps(facts), flush=True)
        elif options.as_csv:
            table.writerows([found.video, *row] for row in _rows(facts))
            sys.stdout.flush()
        else:
            _print(found, speed, printable)
        if options.out is not None:
            try:
                written = _write(film, found, predictor, options, bar, printable)
            except VideoError as error:
                failed += 1
                print(printable(f"{film} has a timeline but not all of its files: {error}"), file=sys.stderr)
                continue
            if not (options.as_json or options.as_csv):
                endings = ",".join(path.suffix[1:] for path in written)
                print(printable(f"written: {written[0].with_suffix('')}.{{{endings}}}"))
    return failed


def _predict(predictor: Predictor, film: Path, options: TimelineOptions, bar: Progress) -> tuple[Timeline, float]:
    """The timeline and how many seconds of film a second it took."""
    from har_assets.runtime.timeline import TIMEOUT_S, predict_timeline

    began = time.monotonic()
    with _task(bar, "predicting") as advance:
        found = predict_timeline(
            predictor,
            film,
            window_s=options.window_s,
            hop_s=options.hop_s,
            smoothing_s=options.smoothing_s,
            threshold=options.threshold,
            batch=options.batch,
            timeout_s=options.timeout_s or TIMEOUT_S,
            progress=advance,
        )
    return found, found.duration_s / (time.monotonic() - began)


@contextlib.contextmanager
def _task(bar: Progress, what: str) -> Iterator[Callable[[float, float], None]]:
    """A line of the progress bar while one film is worked on; call it with seconds done and in all, 0 for unknown."""
    task: TaskID = bar.add_task(what, total=None)

    def advance(done_s: float, total_s: float) -> None:
        bar.update(task, completed=done_s, total=total_s or None)

    try:
        yield advance
    finally:
        bar.remove_task(task)


def _print(found: Timeline, speed: float, printable: Callable[[str], str]) -> None:
    from har_assets.report.timeline import clock_time

    def clock(second: float) -> str:
        return clock_time(second, found.duration_s)

    note = f"  ({found.note})" if found.note else ""
    print(printable(f"{found.video}{note}"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, justify in (("from", "right"), ("to", "right"), ("action", "left"), ("score", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for segment in found.segments:
        table.add_row(clock(segment.start_s), clock(segment.end_s), printable(segment.label), f"{segment.score:.0%}")
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 80)
    named_s = sum(segment.end_s - segment.start_s for segment in found.segments)
    pace = f", {speed:.0f} x real time" if found.duration_s > 10 else ""  # less is the start of a process
    with console.capture() as text:
        if found.segments:
            console.print(table)
        else:
            best = found.scores_NK.max()
            console.print(f"No action reaches the threshold of {found.threshold:g}; the highest score is {best:.2f}.")
        console.print(
            f"an action for {clock(named_s)} of {clock(found.duration_s)}; windows of {found.window_s:.2f} s every "
            f"{found.hop_s:.2f} s{pace}",
            style="dim",
        )
    print(text.get(), end="")  # the console itself would write across the progress bar


def _rows(facts: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (f"{one['start_s']:.3f}", f"{one['end_s']:.3f}", one["label"], f"{one['score']:.6f}")
        for one in facts["segments"]
    ]


# -------------------------------------------------------------------------------------------------- files
def _target(out: Path, film: Path, suffix: str) -> Path:
    return out / f"{film.name}.timeline.{suffix}"


def _require_folder(out: Path, films: Sequence[Path], options: TimelineOptions) -> None:
    """Refuse what would fail at the end of a long film: a folder that cannot be written, names that clash."""
    first: dict[str, Path] = {}
    for film in films:
        other = first.setdefault(film.name, film)
        if other != film:
            raise HarError(
                f"{other} and {film} would both be written to {_target(out, film, 'csv')}: predict them one by one, "
                "each with an --out of its own."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise HarError(
            f"Nothing can be written to {out} ({error.strerror}): choose another folder for --out."
        ) from None
    for film in films:
        remove_left_overs(out, film)
        for suffix in options.suffixes():
            if _target(out, film, suffix).is_dir():
                raise HarError(f"{_target(out, film, suffix)} is a folder: choose another folder for --out.")


def remove_left_overs(out: Path, film: Path) -> None:
    """Half-written files of runs that were killed: of a process that is no more, and untouched for a minute."""
    for suffix in ("csv", "json", "png", "mp4"):
        remove_partials(_target(out, film, suffix), untouched_s=60)


def _write(
    film: Path,
    found: Timeline,
    predictor: Predictor,
    options: TimelineOptions,
    bar: Progress,
    printable: Callable[[str], str],
) -> list[Path]:
    """Write the files of one film, each whole or not at all; return their paths."""
    from har_assets.report.timeline import write_annotated, write_strip

    assert options.out is not None
    facts = {**found.to_dict(windows=True), "runtime": predictor.runtime}
    written = []
    for suffix in options.suffixes():
        target = _target(options.out, film, suffix)
        with _complete_file(target) as partial:
            if suffix == "csv":
                with partial.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows(
                        [("start_s", "end_s", "label", "score"), *_rows(facts)]
                    )
            elif suffix == "json":
                partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            else:
                function = write_annotated if suffix == "mp4" else write_strip
                note = _run(function, film, facts, partial, options, bar)
                if note:
                    print(printable(f"{target}: {note}"), file=sys.stderr)
        written.append(target)
    return written


def _run(
    function: Callable[..., None],
    film: Path,
    facts: dict[str, Any],
    partial: Path,
    options: TimelineOptions,
    bar: Progress,
) -> str:
    """Run a function that decodes the film in a process of its own; return its note."""
    from har_assets.report.timeline import Finished
    from har_assets.runtime.timeline import TIMEOUT_S
    from har_assets.video.workers import DecoderProcess

    limit_s = options.timeout_s or TIMEOUT_S
    with (
        _task(bar, "annotating" if partial.name.endswith("mp4") else "drawing") as advance,
        DecoderProcess(function, film, facts, partial, timeout_s=limit_s) as process,
    ):
        while True:
            message = process.receive()
            if isinstance(message, Finished):
                return message.note
            advance(message, facts["duration_s"])


@contextlib.contextmanager
def _complete_file(target: Path) -> Iterator[Path]:
    """A path beside the target to write to, which takes the target's place at the end and is gone after a fault."""
    try:
        with written_whole(target, keep_suffix=True) as partial:
            yield partial
    except VideoError:
        raise
    except (OSError, HarError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise HarError(f"{target} cannot be written ({reason}): free some space or choose another --out.") from None
