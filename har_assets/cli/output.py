"""Arguments, bars and printing that the commands share."""

import glob
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress


Store = Annotated[
    str, typer.Option("--store", help="Folder or s3:// address of the products; HAR_ARTIFACTS, else artifacts.")
]


def files_of(argument: str) -> list[Path]:
    """The videos that an argument of `har predict` means; a file that is not there is found missing later."""
    from har_assets.video.walk import find_videos

    path = Path(argument)
    if path.is_dir():
        return find_videos(path)
    # Names of real clips hold [ ] and *: a pattern is what is no file.
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    return [match for match in matches if match.is_file()]


def progress_bar(*, seconds: bool = False) -> "Progress":
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


def printable(text: str) -> str:
    """Text that any terminal can show: control characters and what the encoding lacks are written as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
