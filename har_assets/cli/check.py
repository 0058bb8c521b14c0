"""`har check`: what is wrong with the videos of a folder."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from har_assets.cli.output import note, printable


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
            note=note,
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
            print(printable(f"{video.path}: {video.problem or video.note}"))
    if not as_json:
        unreadable = sum(bool(video.problem) for video in found)
        print(
            f"{len(found):,} videos: {len(found) - len(bad):,} sound, {unreadable:,} without a frame, "
            f"{len(bad) - unreadable:,} with something odd."
        )
    if bad:
        raise typer.Exit(1)
