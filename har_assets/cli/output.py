"""Arguments, bars and printing that the commands share."""

import fnmatch
import glob
import itertools
import sys
from collections.abc import Sequence
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
    """The videos that an argument of `har predict` means; a file that is not there is found missing later.

    Files that are left out of a folder are named on stderr.
    """
    from har_assets.video.walk import is_junk, walk_files

    path = Path(argument)
    if path.is_dir():
        tree = walk_files(path)
        for sentence in tree.notes():
            note(sentence)
        return tree.videos
    # Names of real clips hold [ ] and *: a pattern is what is no file.
    if path.exists() or not glob.has_magic(argument):
        return [path]
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    root, pattern = Path(*fixed), path.parts[len(fixed) :]
    if "**" in pattern:  # glob would follow a link that leads back up again and again
        files = walk_files(root).files if root.is_dir() else ()
        return [file for file in files if _fits(file.parts[len(root.parts) :], pattern)]
    matches = [Path(match) for match in sorted(glob.glob(argument))]
    wanted = [match for match in matches if not is_junk(match.parts[len(fixed) :])]
    return [file for match in wanted for file in (files_of(str(match)) if match.is_dir() else [match])]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern as `glob` understands it, `**` for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    if not parts or not fnmatch.fnmatchcase(parts[0], pattern[0]):
        return False
    return parts[0].startswith(".") <= pattern[0].startswith(".") and _fits(parts[1:], pattern[1:])


def note(sentence: str) -> None:
    """Print a note on stderr, so that what is piped or redirected holds results and nothing else."""
    print(printable(f"note: {sentence}"), file=sys.stderr)


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
