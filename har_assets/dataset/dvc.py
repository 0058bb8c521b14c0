"""DVC: the version of `data/`, in `data.dvc`. Works inside and outside git.

DVC adds, fetches and pushes. The way back, from its cache into a folder, is done here: into a folder beside
`data/`, checked and swapped in whole, where `dvc checkout` works on `data/` itself and leaves half of it when
it fails. Files are hard links of the cache: one copy on the disk, read-only because a write goes through.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict
from urllib.parse import urlsplit

import yaml

from har_assets.errors import DatasetError, HarError, PassingError
from har_assets.system.files import Log
from har_assets.video.walk import is_junk

DVC_FILE = "data.dvc"

DVC_COMMAND = (
    "import sys; from har_assets.system.processes import die_with_parent; die_with_parent(int(sys.argv.pop(1)));"
    "from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""`dvc` in a process that ends with its parent: after kill -9 of a run nothing goes on writing."""

REMEDIES = (
    ("no remote", "name one, `dvc remote add --default NAME URL`"),
    ("remote '", "`dvc remote list` shows those that there are"),
    ("to be installed", "install that package"),
    ("not a git repository", "add the line `no_scm = true` below [core] in .dvc/config"),
    ("not inside of a DVC repository", "`dvc init --no-scm` makes one; commit it with data.dvc"),
    ("failed to transfer", "the remote lacks that file or cannot be read; run `dvc push` where the data is"),
    ("nable to acquire lock", "another dvc is at work here: wait for its end"),
)
"""Part of what DVC says -> what helps."""


PORTS = {"http": 80, "https": 443, "webdav": 80, "webdavs": 443, "ssh": 22}
"""Kind of remote to the port of its server, to ask whether anything answers there."""


class FileHash(TypedDict):
    """One file of `data/`, as DVC's own listings have it."""

    md5: str
    relpath: str


class DvcRepository:
    """The project's DVC repository. Commands run in a process of their own: dvc is slow to import."""

    def __init__(self, remote: str = "") -> None:
        self.remote = remote
        """Name of the remote for push and pull; empty takes DVC's default remote."""

    def tracked_version(self, project: Path) -> str | None:
        """The md5 of `data/` in `data.dvc`, `<32 digits>.dir`, or None where nothing is tracked."""
        version = self._out(project).get("md5")
        return str(version) if version else None

    def tracked_dataset(self, project: Path) -> str | None:
        """Name of the data set that `data.dvc` tracks, or None where it does not say."""
        meta = self._content(project).get("meta")
        name = meta.get("dataset") if isinstance(meta, dict) else None
        return str(name) if name else None

    def add(self, project: Path, dataset: str, files: list[FileHash], log: Log) -> str:
        """Track `data/`, whose files are `files`, and return its md5. Files and DVC's cache share their bytes."""
        if not (project / ".dvc").is_dir():
            self._run(project, ["init", "--no-scm"], log)
            with (project / ".dvc" / "config").open("a") as config:
                config.write('[cache]\n    type = "hardlink,copy"\n')
        objects = self.objects_folder(project)
        for file in files:
            cached = _object(objects, file["md5"])
            if cached.is_file() and not cached.samefile(project / "data" / file["relpath"]):
                _remove_spoiled(cached, file["md5"], log)
        self._run(project, ["add", "data"], log)
        version = self.tracked_version(project)
        if version is None:
            raise HarError(f"`dvc add data` wrote no md5 into {project / DVC_FILE}: run it by hand to see why.")
        # With `reflink` or `copy` among its cache types DVC leaves copies as they are.
        for file in files:
            _share(_object(objects, file["md5"]), project / "data" / file["relpath"])
        # Last: a data.dvc without the name was left by a process that was killed above.
        content = self._content(project)
        if (content.get("meta") or {}).get("dataset") != dataset:
            content["meta"] = {"dataset": dataset}
            partial = project / f"{DVC_FILE}.partial"
            partial.write_text(yaml.safe_dump(content, sort_keys=False))
            partial.replace(project / DVC_FILE)
        return version

    def restore(self, project: Path, target: Path, log: Log) -> list[FileHash]:
        """Fill the empty folder `target` with what `data.dvc` names, from the cache or the remote.

        Every file is hashed. A spoiled one in the cache is fetched again from the remote.

        Raises:
            HarError: nothing is tracked, the remote is missing or wrong, or it lacks files.
        """
        version = self.tracked_version(project)
        if version is None:
            raise HarError(f"There is no {project / DVC_FILE} to pull by: restore it, or set dvc: add on video_clips.")
        if not version.endswith(".dir") or self._out(project).get("hash") != "md5":
            raise HarError(
                f"{project / DVC_FILE} does not track a folder in the format of DVC 3: run `dvc add data` where "
                "the data is and commit the file."
            )
        objects = self.objects_folder(project)
        for attempt in (1, 2):
            said = self._run(project, ["fetch", *self._remote_option(), DVC_FILE], log)
            listing = _object(objects, version)
            if listing.is_file() and _md5(listing) == version.removesuffix(".dir"):
                files: list[FileHash] = json.loads(listing.read_text())
                missing = [file for file in files if not _object(objects, file["md5"]).is_file()]
                spoiled = [] if missing else _fill(target, files, objects)
                if not missing and not spoiled:
                    return files
                wrong = f"{len(missing)} of {len(files)} files are" if missing else "all files are there, some spoiled,"
            else:
                spoiled = [listing] if listing.is_file() else []
                wrong = "the list of its files is"
            if not spoiled or attempt == 2:
                break
            for cached in spoiled:
                log(f"{cached} in DVC's cache no longer has the bytes that its name says: fetching it again")
                cached.unlink(missing_ok=True)
            _empty(target)
        if "no remote" in said.lower():
            raise HarError(
                f"data.dvc names data that DVC's cache does not hold whole, and no remote is configured: "
                f"{REMEDIES[0][1]}, or materialize raw_archive from its source with dvc: off."
            )
        self._say_if_away(project)  # DVC calls files missing, too, when it could not ask for them
        raise HarError(
            f"DVC cannot restore version {version[:8]} of data/ ({wrong} neither sound in the cache nor on the "
            "remote): run `dvc push` where the data is, or correct the remote, `dvc remote list`."
        )

    def push(self, project: Path, log: Log) -> None:
        """Copy the tracked data to the remote."""
        self._run(project, ["push", *self._remote_option(), DVC_FILE], log)

    def objects_folder(self, project: Path) -> Path:
        """Where DVC's cache keeps files by their md5."""
        from dvc.config import Config, ConfigError

        try:
            moved = Config(str(project / ".dvc"))["cache"].get("dir")
        except ConfigError as error:
            raise HarError(f"{project / '.dvc' / 'config'} is not readable ({error}): correct it.") from error
        return Path(moved or project / ".dvc" / "cache") / "files" / "md5"

    def _say_if_away(self, project: Path) -> None:
        """PassingError when nothing answers at the address of the remote. One that refuses DVC, does answer."""
        from dvc.config import Config

        config = Config(str(project / ".dvc"))
        name = self.remote or config["core"].get("remote", "")
        parts = urlsplit(config["remote"].get(name, {}).get("url", ""))
        port = parts.port or PORTS.get(parts.scheme)
        if not parts.hostname or port is None:
            return
        try:
            socket.create_connection((parts.hostname, port), timeout=5).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
                return  # no such host: a name that is misspelt stays so
            raise PassingError(
                f"The DVC remote {name!r} at {parts.hostname}:{port} does not answer ({error.strerror or error}): "
                "start it or mend the network, or correct its address, `dvc remote list`."
            ) from error

    def _remote_option(self) -> list[str]:
        return ["--remote", self.remote] if self.remote else []

    def _out(self, project: Path) -> dict[str, Any]:
        outs = self._content(project).get("outs")
        first = outs[0] if isinstance(outs, list) and outs else {}
        return first if isinstance(first, dict) else {}

    def _content(self, project: Path) -> dict[str, Any]:
        path = project / DVC_FILE
        if not path.is_file():
            return {}
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise HarError(f"{path} is not readable YAML: restore it (`git checkout {DVC_FILE}`).") from error
        return content if isinstance(content, dict) else {}

    def _run(self, project: Path, arguments: list[str], log: Log) -> str:
        """Run a dvc command and return all that it said; HarError with its reason when it fails.

        PassingError where it fails because the remote is away.
        """
        command = f"dvc {' '.join(arguments)}"
        log(command)
        done = subprocess.run(
            [sys.executable, "-P", "-c", DVC_COMMAND, str(os.getpid()), *arguments],
            cwd=project,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.DEVNULL,  # never a question
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            if arguments[0] in ("fetch", "push"):
                self._say_if_away(project)
            reason = _reason(done.stderr) or _reason(done.stdout) or f"exit status {done.returncode}"
            remedy = next((remedy for part, remedy in REMEDIES if part in reason), f"run it in {project} to see more")
            raise HarError(f"`{command}` failed ({reason}): {remedy}, or set dvc: off on video_clips.")
        return done.stderr + done.stdout


def files_of(data: Path, *, workers: int = 4) -> list[FileHash]:
    """Every file of a folder with its md5, sorted as DVC sorts them: by the whole name, `a!/x` before `a/x`."""
    paths = [path for path in data.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: path.relative_to(data).as_posix())
    with ThreadPoolExecutor(workers) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(_md5, paths))
    return [
        FileHash(md5=digest, relpath=path.relative_to(data).as_posix())
        for path, digest in zip(paths, digests, strict=True)
    ]


def version_of(files: list[FileHash]) -> str:
    """The md5 that DVC gives a folder of these files: `<32 hexadecimal digits>.dir`."""
    return hashlib.md5(json.dumps(files, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def differences(data: Path, expected: list[FileHash]) -> dict[str, list[str]]:
    """Names of files that are `changed`, `missing` or `new` in a folder, new junk left out; all files are read."""
    found = {file["relpath"]: file["md5"] for file in files_of(data)}
    wanted = {file["relpath"]: file["md5"] for file in expected}
    return {
        "changed": sorted(name for name in found.keys() & wanted.keys() if found[name] != wanted[name]),
        "missing": sorted(wanted.keys() - found.keys()),
        "new": sorted(name for name in found.keys() - wanted.keys() if not is_junk(tuple(name.split("/")))),
    }


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _object(objects: Path, md5: str) -> Path:
    return objects / md5[:2] / md5[2:]


def _remove_spoiled(cached: Path, md5: str, log: Log) -> None:
    if _md5(cached) != md5:
        log(f"{cached} in DVC's cache no longer has the bytes that its name says: replaced")
        cached.unlink()


def _share(cached: Path, file: Path) -> None:
    """Make `file` a read-only hard link of the same bytes in the cache; a copy stays one on another disk."""
    with contextlib.suppress(OSError):
        if not file.is_symlink() and not cached.samefile(file):
            link = file.with_name(f".{file.name[:100]}.link")
            link.unlink(missing_ok=True)
            os.link(cached, link)
            link.replace(file)
    file.chmod(0o444)


def _fill(target: Path, files: list[FileHash], objects: Path) -> list[Path]:
    """Link or copy all files from the cache; return the objects whose bytes are not what their name says."""
    for file in files:
        name = PurePosixPath(file["relpath"])
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"data.dvc names the path {file['relpath']!r} outside data/: correct it at its origin.")
        path, cached = target / name, _object(objects, file["md5"])
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(cached, path)
        except OSError:  # the cache is on another disk, or its file system has no links
            shutil.copyfile(cached, path)
        path.chmod(0o444)
    wrong = set(differences(target, files)["changed"])
    return [_object(objects, file["md5"]) for file in files if file["relpath"] in wrong]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _reason(said: str) -> str:
    """DVC's own reason in one line: what it marks as an error, without the part that repeats the command."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors: Iterator[str] = (line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:"))
    return next(errors, lines[-1] if lines else "").rstrip(".")
