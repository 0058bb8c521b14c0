"""`har doctor`: what of this machine, environment and project folder is not as it should be, and what to do.

Each check is a function of the project folder that returns findings. Whatever a check meets is a finding,
never a traceback: libraries that may take their process down are tried in another one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from har_assets.errors import HarError

if TYPE_CHECKING:
    from dagster import DagsterInstance

OK, WARNING, PROBLEM = "ok", "warning", "problem"

PYTHON_VERSIONS = ((3, 11), (3, 14))
"""First that is supported, first that is not."""

IMPORT_SECONDS = 60
"""Longest that a library may take to import on a slow disk."""

DAEMON_SILENT_S = 120
"""Dagster's daemons say every 30 s that they live."""

SAMPLE_BYTES = 500_000_000
"""Disk that the built-in sample needs with everything made from it."""

HMDB51_BYTES = 25_000_000_000
"""Archive 2 GB, videos 2 GB, frame cache 16 GB, and room to work."""

HOLD_ANTLR = "pip install 'hydra-core==1.4.0rc3' 'omegaconf==2.4.1rc1' 'antlr4-python3-runtime==4.13.2'"


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    check: str
    state: str
    """`ok`, `warning` or `problem`."""
    found: str
    """What there is."""
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


Check = Callable[[Path], "Finding | list[Finding]"]


def examine(project: Path, *, fix: bool = False) -> list[Finding]:
    """Run all checks on a project folder; `fix` ends dead runs and removes what killed runs have left.

    The project is to be the working folder: Dagster takes the paths in dagster.yaml from there.
    """
    project = project.absolute()
    if fix:
        repaired = _attempt("repairs", lambda: repair(project))
    # Two at a time: most wait for a process of their own.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda check: _attempt(_name(check), lambda: check(project)), CHECKS))
    return [finding for findings in ([repaired] if fix else []) + found for finding in findings]


def _attempt(name: str, check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    try:
        found = check()
    except HarError as error:
        found = Finding(name, PROBLEM, str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding too
        found = Finding(name, PROBLEM, f"the check itself failed: {_line(f'{type(error).__name__}: {error}')}")
    return found if isinstance(found, list) else [found]


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def check_python(project: Path) -> Finding:
    """Version of Python and platform."""
    here = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    first, beyond = PYTHON_VERSIONS
    if not first <= sys.version_info[:2] < beyond:
        return Finding("python", PROBLEM, here, "use Python 3.11, 3.12 or 3.13: `make install PYTHON=python3.11`")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding("python", PROBLEM, here, "use Linux on x86-64: decord and TensorRT-RTX have no other wheels")
    return Finding("python", OK, here)


def check_packages(project: Path) -> Finding:
    """Installed versions against what har_assets requires and against requirements.lock."""
    from packaging.requirements import Requirement

    broken = []
    for line in metadata.requires("har_assets") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        if version is None:
            broken.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            broken.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if broken:
        return Finding("packages", PROBLEM, _some(broken), "pip install --requirement requirements.lock")
    lock = next(
        (path for path in (project / "requirements.lock", _source_folder() / "requirements.lock") if path.is_file()),
        None,
    )
    if lock is None:
        return Finding("packages", OK, "all in the versions that har_assets asks for; no requirements.lock here")
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock.read_text(), flags=re.MULTILINE))
    different = [
        f"{name} is {version or 'missing'}, locked {wanted}"
        for name, wanted in pinned.items()
        # `2.14.1+cpu` is another build of 2.14.1
        if (version := _installed(name)) is None or version.split("+")[0] != wanted.split("+")[0]
    ]
    if different:
        return Finding("packages", WARNING, _some(different), f"pip install --requirement {lock}")
    return Finding("packages", OK, f"{len(pinned)} in the versions of {lock.name}")


def check_asset_selection(project: Path) -> Finding:
    """The trap of antlr: dvc's hydra-core 1.3 brings antlr4 4.9, with which every --select of Dagster dies."""
    version = _installed("antlr4-python3-runtime")
    if version is None or not version.startswith("4.13"):
        return Finding("asset selection", PROBLEM, f"antlr4 {version}: `dagster --select` needs 4.13", HOLD_ANTLR)
    tried = _python(
        "import warnings; warnings.simplefilter('ignore')\n"
        "from dagster import AssetSelection; print(AssetSelection.from_string('+key:trt_engine'))"
    )
    if tried.returncode:
        return Finding("asset selection", PROBLEM, f"Dagster cannot parse `+key:trt_engine`: {tried.said}", HOLD_ANTLR)
    return Finding("asset selection", OK, f"Dagster parses `+key:trt_engine` (antlr4 {version})")


def check_gpu(project: Path) -> Finding:
    """GPU, its compute capability, and whether PyTorch can use it."""
    from har_assets.system.gpu import gpu_compute_capability

    capability = gpu_compute_capability()
    if capability is None:
        return Finding("gpu", OK, "none: training and inference run on the CPU, engines are built all the same")
    shown = f"compute capability {capability[0]}.{capability[1]}"
    tried = _python("import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')")
    if tried.returncode or not tried.said:
        return Finding(
            "gpu",
            PROBLEM,
            f"{shown}, but PyTorch cannot use it: {tried.said or 'no CUDA device'}",
            "install a torch built for CUDA, or a newer driver",
        )
    return Finding("gpu", OK, f"{tried.said}, {shown}")


def check_tensorrt(project: Path) -> Finding:
    """Builders of engines, and whether one of them makes engines that this GPU runs."""
    from har_assets.export.tensorrt import BUILDERS, RTX_CAPABILITIES
    from har_assets.system.gpu import gpu_compute_capability

    tried = {name: _python(f"import {module}; print({module}.__version__)") for name, module in BUILDERS.items()}
    versions = [f"{name} {result.said}" for name, result in tried.items() if result.returncode == 0]
    if not versions:
        return Finding(
            "tensorrt", PROBLEM, f"no builder of engines: {tried['tensorrt_rtx'].said}", "pip install tensorrt-rtx-cu13"
        )
    capability = gpu_compute_capability()
    if capability and tried["tensorrt"].returncode and f"{capability[0]}.{capability[1]}" not in RTX_CAPABILITIES:
        return Finding(
            "tensorrt",
            WARNING,
            f"{', '.join(versions)}, whose engines do not run on this GPU",
            "pip install 'har_assets[tensorrt]'",
        )
    return Finding("tensorrt", OK, ", ".join(versions))


def check_onnxruntime(project: Path) -> Finding:
    """Execution providers of ONNX Runtime."""
    from har_assets.system.gpu import gpu_compute_capability

    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    tried = _python("import onnxruntime as o; print(o.__version__, *o.get_available_providers())")
    if tried.returncode:
        return Finding(
            "onnxruntime", PROBLEM, f"cannot be imported: {tried.said}", "pip install --force-reinstall onnxruntime-gpu"
        )
    if len(both) == 2:
        return Finding(
            "onnxruntime",
            WARNING,
            "onnxruntime and onnxruntime-gpu overwrite each other's files",
            "pip uninstall onnxruntime && pip install --force-reinstall onnxruntime-gpu",
        )
    if gpu_compute_capability() and "CUDAExecutionProvider" not in tried.said:
        return Finding("onnxruntime", WARNING, f"{tried.said}: not for this GPU", "pip install onnxruntime-gpu")
    return Finding("onnxruntime", OK, tried.said)


def check_decoders(project: Path) -> Finding:
    """Decord and PyAV decode a small made clip, in a process of their own, to the same frames."""
    remedy = "pip install --force-reinstall decord==0.6.0 av"
    with tempfile.TemporaryDirectory() as folder:
        tried = _python(DECODE_BOTH, str(Path(folder, "clip.avi")))
    if tried.returncode:
        return Finding("decoders", PROBLEM, tried.said, remedy)
    if tried.said != "[20, 20, 0]":
        frames = ", ".join(tried.said.strip("[]").split(", ")[:2])
        return Finding("decoders", PROBLEM, f"decord and PyAV disagree on a clip of 20 frames ({frames})", remedy)
    return Finding("decoders", OK, f"decord {_installed('decord')} and PyAV {_installed('av')} give the same frames")


DECODE_BOTH = """
import sys
import av, decord, numpy as np
path = sys.argv[1]
with av.open(path, "w") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for time in range(20):
        picture = np.full((48, 64, 3), 10 * time, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())
reader = decord.VideoReader(path, num_threads=1)
first = np.stack([reader.next().asnumpy() for _ in range(len(reader))])
with av.open(path) as container:
    second = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
count = min(len(first), len(second))
print([len(first), len(second), int(np.abs(first[:count].astype(int) - second[:count]).max())])
"""


def check_disk(project: Path) -> Finding:
    """Free space against what the data set of the project needs."""
    from har_assets.store.bucket import open_store

    published = open_store(project=project).find_latest("raw_archive")
    source = published.record.lineage.get("dataset", "") if published else os.environ.get("HAR_SOURCE", "")
    need = HMDB51_BYTES if source == "hmdb51" else SAMPLE_BYTES
    here = sum(_size(project / name) for name in ("artifacts", "data"))
    free = shutil.disk_usage(project).free
    found = f"{free / 1e9:.1f} GB free, {here / 1e9:.1f} GB used by artifacts and data"
    if free + here < need:
        return Finding(
            "disk",
            PROBLEM,
            f"{found}; {source or 'the sample'} needs {need / 1e9:.1f} GB",
            "free some space, or put the project on another disk",
        )
    if free + here < HMDB51_BYTES:
        return Finding(
            "disk",
            WARNING,
            f"{found}: not enough for HMDB51 ({HMDB51_BYTES / 1e9:.0f} GB)",
            "put the project on another disk before `source: hmdb51`",
        )
    return Finding("disk", OK, found)


def check_quota(project: Path) -> Finding:
    """Size of the store against its quota and against what the disk could hold."""
    from har_assets.store.bucket import ArtifactBucket, open_store
    from har_assets.store.quota import QUOTA_VARIABLE
    from har_assets.system.files import format_bytes, size_of

    store = open_store(project=project)
    quota = store.quota
    if quota is None:
        if isinstance(store, ArtifactBucket):
            return Finding("quota", OK, f"none, and {store.address} is not measured without one")
        return Finding("quota", OK, f"none; the store holds {format_bytes(size_of(store.root))}")
    used = quota.used()
    found = f"the store holds {format_bytes(used)} of {format_bytes(quota.bytes)}"
    if used > quota.bytes:
        return Finding("quota", PROBLEM, f"{found}: nothing is published", f"har prune, or raise {QUOTA_VARIABLE}")
    if used > 0.9 * quota.bytes:
        return Finding("quota", WARNING, found, f"har prune, or raise {QUOTA_VARIABLE}")
    if not isinstance(store, ArtifactBucket) and quota.bytes - used > shutil.disk_usage(project).free:
        return Finding("quota", WARNING, f"{found}, and the disk is full before that", f"lower {QUOTA_VARIABLE}")
    return Finding("quota", OK, found)


def check_pruning(project: Path) -> Finding:
    """Versions and abandoned work that `har prune` would remove."""
    from har_assets.resources.mlflow import MlflowTracking
    from har_assets.store.bucket import ArtifactBucket, open_store
    from har_assets.store.pruning import plan_pruning, registered_versions
    from har_assets.system.files import format_bytes

    store = open_store(project=project)
    if isinstance(store, ArtifactBucket):  # whose every record would have to be read
        return Finding("pruning", OK, f"`har prune` looks at every record of {store.address}, and says what may go")
    plan = plan_pruning(store.root, registered_versions(MlflowTracking().uri(project)))
    if not plan.candidates:
        return Finding("pruning", OK, f"nothing may go, {len(plan.kept)} versions are kept")
    found = f"{len(plan.candidates)} old versions or abandoned work, {format_bytes(plan.bytes)}"
    return Finding("pruning", OK, f"`har prune` would remove {found}")


def check_folders(project: Path) -> Finding:
    """Whether files can be written where the project and its temporary files are."""
    refused = []
    for folder in (project, project / "artifacts", project / ".dagster", Path(tempfile.gettempdir())):
        if not os.path.lexists(folder):
            continue  # made when it is needed, in a folder that is looked at here
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refused.append(f"{folder} ({error.strerror})")
    if refused:
        return Finding(
            "folders",
            PROBLEM,
            f"nothing can be written to {_some(refused)}",
            "mend their permissions or free some space",
        )
    return Finding("folders", OK, "project, artifacts and temporary folder can be written")


def check_bucket(project: Path) -> Finding:
    """Whether products can be put into the bucket, where there is one, and read back."""
    from har_assets.store.bucket import ArtifactBucket, open_store

    store = open_store(project=project)
    if not isinstance(store, ArtifactBucket):
        return Finding("bucket", OK, f"none: products are in {store.address}")
    return Finding("bucket", OK, f"{store.address} takes, gives and removes an object in {store.try_out():.2f} s")


def check_ray_cluster(project: Path) -> Finding:
    """Whether the job server of the Ray cluster answers, where one is configured, and what its nodes have."""
    from har_assets.ray_cluster import RAY_VARIABLE, cluster_address, connect, nodes_of

    name = "ray cluster"
    address = cluster_address()
    if not address:
        return Finding(name, OK, f"none: steps run on this machine ({RAY_VARIABLE} is not set)")
    version = _installed("ray")
    nodes = nodes_of(connect(address))
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    found = f"{address} answers (Ray {version} here): {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs"
    if not cpus:
        return Finding(name, PROBLEM, found, f"start nodes: ray start --address {urlsplit(address).hostname}:6379")
    return Finding(name, OK, found)


def check_working_folder(project: Path) -> Finding:
    """Whether the commands of Dagster started here read and write this project's files."""
    home = os.environ.get("DAGSTER_HOME")
    if not (project / "dagster.yaml").is_file():
        return Finding(
            "working folder",
            PROBLEM,
            f"no dagster.yaml in {project}: runs started here leave nothing",
            "change into the project folder",
        )
    if home and not Path(home).is_dir():
        return Finding("working folder", PROBLEM, f"DAGSTER_HOME={home} is no folder", "unset DAGSTER_HOME")
    if home and _on_postgres(Path(home)):
        return Finding("working folder", OK, f"Dagster of many machines, by {home}/dagster.yaml")
    if home and Path(home).resolve() != project.resolve():
        return Finding(
            "working folder", WARNING, f"DAGSTER_HOME={home} is read, not the dagster.yaml here", "unset DAGSTER_HOME"
        )
    return Finding("working folder", OK, f"{project} has a dagster.yaml")


def check_dagster_database(project: Path) -> list[Finding]:
    """Dagster's database opens; no run of a dead process holds a slot."""
    name = "dagster database"
    if not (project / "dagster.yaml").is_file():
        return [Finding(name, OK, "not looked for: no project here")]
    shared = _on_postgres(_dagster_home(project))
    if not shared and not any((project / ".dagster").rglob("*.db")):
        return [Finding(name, WARNING, "not made yet", "har init")]
    try:
        from har_assets.runs import dead_runs

        with _instance(project) as instance:
            count = instance.get_runs_count()
            revision, newest = instance.run_storage.alembic_version() or (None, None)
            dead = [run.run_id[:8] for run in dead_runs(instance)]
            waiting = _waiting_for_nobody(instance)
    except Exception as error:  # noqa: BLE001 - whatever a broken database raises
        remedy = "move .dagster aside and run `har init`; products are not in it"
        if shared:
            remedy = "check that PostgreSQL runs, and PGHOST, PGPORT, PGUSER and PGPASSWORD"
        return [Finding(name, PROBLEM, f"cannot be opened: {_line(str(error))}", remedy)]
    if revision != newest:
        return [
            Finding(
                name,
                PROBLEM,
                f"made by another version of Dagster (schema {revision}, not {newest})",
                "back it up, stop every process of Dagster, `dagster instance migrate`",
            )
        ]
    findings = [Finding(name, OK, f"{'PostgreSQL' if shared else 'it'} opens, {count} runs")]
    if dead:
        findings.append(
            Finding("dead runs", PROBLEM, f"{_some(dead)}: killed, and may hold a slot", "har doctor --fix")
        )
    else:
        findings.append(Finding("dead runs", OK, "none"))
    if waiting:
        findings.append(
            Finding(
                "run queue",
                PROBLEM,
                f"{waiting} runs wait and no daemon starts them",
                "dagster dev, or `dagster-daemon run`",
            )
        )
    return findings


def _waiting_for_nobody(instance: DagsterInstance) -> int:
    """Number of queued runs where the daemon that starts them has been silent; 0 where it is at work."""
    from dagster import DagsterRunStatus, RunsFilter

    beat = instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
    if beat and time.time() - beat.timestamp < DAEMON_SILENT_S:
        return 0
    return instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))


def check_mlflow_database(project: Path) -> Finding:
    """MLflow's tracking database opens in the installed version."""
    from har_assets.resources.mlflow import MlflowTracking

    name = "mlflow database"
    uri = MlflowTracking().uri(project)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///"):
        if not path.is_file():
            return Finding(name, OK, f"{path.name} not made yet; the first training makes it")
        remedy = f"move {path.name} aside; models and figures are in artifacts/ too"
        try:  # before MLflow: it would make tables in a database that is not its own
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
            try:
                connection.execute("select version_num from alembic_version").fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            return Finding(name, PROBLEM, f"{path} is no database of MLflow ({_line(str(error))})", remedy)
    elif uri.startswith(("http://", "https://")) and (reason := _no_answer(uri)):
        return Finding(
            "mlflow server",
            WARNING,
            f"{uri} does not answer ({reason}): steps keep what they log",
            "start it, or correct HAR_MLFLOW_URI; then `har mlflow-sync`",
        )
    tried = _python(
        "import sys; from mlflow import MlflowClient\n"
        "print(len(MlflowClient(sys.argv[1]).search_experiments(max_results=1000)))",
        uri,
    )
    if tried.returncode:
        return Finding(name, PROBLEM, f"{uri} cannot be opened: {tried.said}", f"mlflow db upgrade {uri}")
    return Finding(name, OK, f"{uri} opens, {tried.said} experiments")


def _no_answer(uri: str) -> str:
    """Why a server does not say that it is well, a clause; empty where it does."""
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
    except requests.RequestException as error:
        return type(error).__name__
    return "" if answer.ok else f"status {answer.status_code}"


def check_mlflow_outbox(project: Path) -> Finding:
    """What was logged while MLflow was away has been sent since."""
    from har_assets.resources.mlflow import MlflowTracking
    from har_assets.tracking.outbox import unsettled

    kept = [folder.name for folder in unsettled(MlflowTracking().outbox_folder(project))]
    if kept:
        return Finding(
            "mlflow outbox", WARNING, f"MLflow lacks what these steps logged: {_some(kept)}", "har mlflow-sync"
        )
    return Finding("mlflow outbox", OK, "MLflow has everything that ended steps logged")


def check_data(project: Path) -> list[Finding]:
    """data.dvc, data/ and what video_clips published agree; the bytes are on the disk once."""
    from har_assets.assets.dataset import CLIP_HASHES, changed_files
    from har_assets.resources.dvc import Dvc
    from har_assets.store.bucket import open_store

    dvc, data = Dvc(), project / "data"
    tracked = dvc.tracked_version(project)
    published = open_store(project=project).find_latest("video_clips")
    again = "materialize video_clips with force: true"
    if tracked and not (project / ".dvc").is_dir():
        return [Finding("dvc", PROBLEM, "data.dvc without a .dvc folder", "dvc init --no-scm")]
    if not data.is_dir():
        if tracked and dvc.tracked_dataset(project) != "sample":
            return [
                Finding(
                    "dvc",
                    WARNING,
                    f"data.dvc names version {tracked[:8]} and data/ is absent",
                    "materialize video_clips with dvc: pull",
                )
            ]
        return [Finding("dvc", OK, "no data/ yet")]
    if published is None or CLIP_HASHES not in published.record.files:
        return [Finding("data", WARNING, "data/ is there, its video_clips is not", "materialize video_clips")]
    findings = []
    version = published.record.data_version
    if tracked is None:
        findings.append(Finding("dvc", OK, "data/ is not tracked (dvc: off)"))
    elif tracked != version:
        findings.append(
            Finding(
                "dvc",
                WARNING,
                f"data.dvc names version {tracked[:8]}, data/ is {version[:8]}",
                "materialize video_clips with dvc: pull to take the former",
            )
        )
    else:
        findings.append(Finding("dvc", OK, f"data.dvc and video_clips name version {version[:8]}"))
    changed = [f"{name} ({how})" for how, names in changed_files(published, data).items() for name in names]
    if changed:
        findings.append(Finding("data", PROBLEM, f"not what video_clips published: {_some(changed)}", again))
    else:
        findings.append(Finding("data", OK, f"{published.record.headline}, unchanged"))
    if tracked == version and not changed:
        twice = _stored_twice(data, published.file(CLIP_HASHES), dvc.objects_folder(project))
        if twice > 1e6:
            findings.append(Finding("disk", WARNING, f"data/ and DVC's cache hold {twice / 1e6:.0f} MB twice", again))
    return findings


def _stored_twice(data: Path, listing: Path, objects: Path) -> int:
    """Bytes of files that data/ and the cache on the same disk hold without sharing them. Reflinks count too."""
    twice = 0
    for file in json.loads(listing.read_text()):
        here, there = data / file["relpath"], objects / file["md5"][:2] / file["md5"][2:]
        if there.is_file() and here.stat().st_dev == there.stat().st_dev and not here.samefile(there):
            twice += here.stat().st_size
    return twice


def check_leftovers(project: Path) -> Finding:
    """What killed runs have left: each is mended or removed by the next run of its asset, or by --fix."""
    left = _leftovers(project)
    swap = [name for name in (".data.staging", ".data.replaced") if (project / name).exists()]
    work = [path for path in (project / "artifacts").glob("*/.work-*") if path.is_dir()]
    if left or swap:
        names = [str(path.relative_to(project)) for path in left] + swap
        return Finding(
            "leftovers",
            WARNING,
            f"of killed runs: {_some(names)}",
            "materialize video_clips" if swap else "har doctor --fix",
        )
    if work:
        size = sum(_size(path) for path in work)
        return Finding("leftovers", OK, f"unfinished work that the same command goes on with: {size / 1e6:.0f} MB")
    return Finding("leftovers", OK, "none")


CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_asset_selection,
    check_gpu,
    check_tensorrt,
    check_onnxruntime,
    check_decoders,
    check_disk,
    check_quota,
    check_pruning,
    check_folders,
    check_bucket,
    check_ray_cluster,
    check_working_folder,
    check_dagster_database,
    check_mlflow_database,
    check_mlflow_outbox,
    check_data,
    check_leftovers,
)


def repair(project: Path) -> Finding:
    """End the runs of dead processes, free their slots, remove their staging folders."""
    from har_assets.runs import release_dead_runs

    released: list[str] = []
    if any((project / ".dagster").rglob("*.db")) or _on_postgres(_dagster_home(project)):
        with _instance(project) as instance:
            released = release_dead_runs(instance)
    left = _leftovers(project)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return Finding("repairs", OK, f"{len(released)} dead runs marked failed, {len(left)} staging folders removed")


def _instance(project: Path) -> DagsterInstance:
    from dagster import DagsterInstance

    return DagsterInstance.from_config(str(_dagster_home(project)))


def _dagster_home(project: Path) -> Path:
    """Folder of the dagster.yaml that counts: DAGSTER_HOME where that is the one of many machines."""
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) if home and _on_postgres(Path(home)) else project


def _on_postgres(folder: Path) -> bool:
    import yaml

    try:
        config = yaml.safe_load((folder / "dagster.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "postgres" in (config.get("storage") or {})


def _leftovers(project: Path) -> list[Path]:
    from har_assets.store.folder import STAGING_PREFIX

    return [
        folder
        for folder in sorted((project / "artifacts").glob(f"*/{STAGING_PREFIX}*"))
        if not Path("/proc", folder.name.removeprefix(STAGING_PREFIX).split("-")[0]).exists()
    ]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _source_folder() -> Path:
    return Path(__file__).resolve().parents[1]


def _some(items: Iterable[str], shown: int = 4) -> str:
    listed = list(items)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@dataclass(frozen=True)
class _Tried:
    returncode: int
    said: str
    """What it printed, or its last line of error."""


def _python(code: str, *arguments: str) -> _Tried:
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
        return _Tried(0, _line(done.stdout))
    lines = done.stderr.strip().splitlines() or [f"the process died (status {done.returncode})"]
    return _Tried(done.returncode, _line(lines[-1]))


def to_json(findings: list[Finding]) -> str:
    """The findings as a JSON list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)
