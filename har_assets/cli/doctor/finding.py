"""The result of a check, and the helpers that checks share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

OK, WARNING, PROBLEM = "ok", "warning", "problem"


IMPORT_SECONDS = 60
"""Longest that a library may take to import on a slow disk."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    state: str
    """`ok`, `warning` or `problem`."""
    found: str
    """The state that was found."""
    remedy: str = ""
    """The remedy; empty where nothing is to be done."""


Check = Callable[[Path], "Finding | list[Finding]"]


def one_line(text: str) -> str:
    """White space folded, at most 300 characters."""
    return " ".join(text.split())[:300]


def installed(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def some(items: Iterable[str], shown: int = 4) -> str:
    """The first few of a list in words, and how many more there are."""
    listed = list(items)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def size_below(folder: Path) -> int:
    """Bytes of the files below a folder, links left out."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@dataclass(frozen=True)
class _Tried:
    returncode: int
    said: str
    """Its output, or its last line of error."""


def tried_in_python(code: str, *arguments: str) -> _Tried:
    """Run code in a Python of its own: a library that crashes or hangs costs its line in the table."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Tried(1, f"no answer in {IMPORT_SECONDS} s")
    if done.returncode == 0:
        return _Tried(0, one_line(done.stdout))
    lines = done.stderr.strip().splitlines() or [f"the process died (status {done.returncode})"]
    return _Tried(done.returncode, one_line(lines[-1]))


def to_json(findings: list[Finding]) -> str:
    """The findings as a JSON list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)
