"""frame_cache in shards on two nodes of a Ray cluster against one, with the same cores each, and where the time goes.

    python -m benchmarks.bench_ray_frame_cache [--cores 1] [--repeats 3] [--shard-clips 20]
    python -m benchmarks.bench_ray_frame_cache --bucket folder --times 4      without what the bucket's server takes
    python -m benchmarks.bench_ray_frame_cache --cores 4 --apart --times 8    on 12 cores or more

Nodes are process trees of this machine, tied to cores of their own by taskset; with `--apart` so are the bucket (two
cores), the head and the step (one each), which share the nodes' cores otherwise. The parts go through the bucket
(moto's server on loopback, a Python process that takes some 100 MB/s; or a folder behind the same code), as they do
between machines. The sample's 240 videos, each `--times` under another name, are on each node before the clock starts.
It stops when the cache is published: shards decoded, parts uploaded, their tables merged, packs copied inside
the bucket.

The account is the processor time of each kind of process, from /proc/PID/stat four times a second: what a process has
used in its last quarter of a second is missing.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

STEP = """
import json, sys, time
from har_assets.cluster.frames import PART, build_on_cluster, frame_shards
from har_assets.cluster.sharding import remove_parts
from har_assets.store.opening import StoreLocation, chosen_root
from har_assets.store.record import Record, describe_files
from har_assets.video.frame_cache import CacheParams

clips, shard_clips, key = json.loads(sys.argv[1])
location = StoreLocation(chosen_root())
store = location.open()
params = CacheParams(128, 171, 1, 64)
shards = frame_shards(dict.fromkeys(clips, ""), params, 120.0, shard_clips)
started = time.perf_counter()
with store.staging("frame_cache") as folder:
    report, packs = build_on_cluster(
        shards, location=location, params=params, timeout_s=120.0, folder=folder, log=lambda line: None
    )
    decoded = time.perf_counter() - started
    files = {**describe_files(folder), **{name: part.record.files[name] for name, part in packs.items()}}
    record = Record(asset="frame_cache", key=key, data_version=key, files=files, headline="", lineage={}, metadata={},
                    checks={}, inputs={}, config={}, seconds=0.0)
    published = store.publish(folder, record, packs)
seconds = time.perf_counter() - started
remove_parts(PART, shards, store)
store.discard(published)
print(json.dumps([seconds, decoded, report.clips, report.frames, report.bytes]))
"""

RAY_ITSELF = "Ray itself on the nodes"
WORKERS = ("ray::frame_cache_part", "ray::IDLE")
"""Ray's workers; its agents are called ray::, too."""

TICKS = os.sysconf("SC_CLK_TCK")


class Account:
    """Processor seconds by kind of process while it is open."""

    def __init__(self, roots: dict[int, str]) -> None:
        self.roots = roots
        """Process number of a tree to what it is."""
        self.first: dict[tuple[int, int], float] = {}
        self.last: dict[tuple[int, int], tuple[float, str]] = {}
        self.over = threading.Event()

    def __enter__(self) -> "Account":
        self.look()
        self.first = {process: seconds for process, (seconds, _) in self.last.items()}
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        """Look four times a second."""
        while not self.over.wait(0.25):
            self.look()

    def look(self) -> None:
        """Note what every process of the trees has used."""
        parent_of: dict[int, int] = {}
        used: dict[int, tuple[int, float]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(folder.name)
            parent_of[pid] = int(fields[1])
            used[pid] = (int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS)
        for pid, (born, seconds) in used.items():
            if kind := self.kind_of(pid, parent_of):
                before = self.last.get((pid, born), (0.0, kind))[1]
                # A worker has another name before it works and none when it has ended.
                self.last[pid, born] = (seconds, kind if before == RAY_ITSELF else before)

    def kind_of(self, pid: int, parent_of: dict[int, int]) -> str:
        """What a process is by the trees that it is in; empty for one of none of them."""
        names, at = [], pid
        while at > 1 and at not in self.roots:
            try:
                names.append(Path("/proc", str(at), "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace"))
            except OSError:
                return ""
            at = parent_of.get(at, 0)
        if at not in self.roots:
            return ""
        root = self.roots[at]
        if root != "node":
            return root
        workers = [name in WORKERS for name in names]
        if not any(workers):
            return RAY_ITSELF
        return "a shard beside that: hashes, upload" if workers[0] else "decoding, its start included"

    def seconds(self) -> dict[str, float]:
        """Processor seconds by kind."""
        kinds: dict[str, float] = defaultdict(float)
        for process, (seconds, kind) in self.last.items():
            kinds[kind] += seconds - self.first.get(process, 0.0)
        return dict(kinds)


def main() -> None:
    """Print the seconds of one and of two nodes, run by run, the ratio of their medians, and the account of both."""
    from har_assets.dataset.folder import CLIP_HASHES
    from har_assets_tests.cluster.ray_nodes import ray_cluster
    from har_assets_tests.project import Project, log_of
    from har_assets_tests.s3_server import BUCKET, s3_server

    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, default=1, help="of each node")
    parser.add_argument("--apart", action="store_true", help="four more cores for the bucket, the head and the step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shard-clips", type=int, default=20)
    parser.add_argument("--times", type=int, default=1, help="each video is decoded so often")
    parser.add_argument("--bucket", choices=["server", "folder"], default="server")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    need = 2 * options.cores + 4 * options.apart
    if len(cores) < need:
        parser.error(
            f"two nodes of {options.cores} cores, and what is beside them, need {need}; there are {len(cores)}"
        )
    beside = cores[2 * options.cores : need]
    of_bucket, of_head, of_step = (beside[:2], beside[2:3], beside[3:]) if options.apart else ([], [], [])
    with tempfile.TemporaryDirectory() as folder, s3_server() as s3:
        if of_bucket:
            os.sched_setaffinity(s3.process.pid, of_bucket)
        root = Path(folder)
        shared: dict[str, str] = {
            **s3.environment,
            "PYTHONPATH": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
            "HAR_ARTIFACTS": f"s3://{BUCKET}/har" if options.bucket == "server" else f"file://{root}/bucket",
            "FSSPEC_FILE": '{"auto_mkdir": true}',
        }
        project = Project.make(root / "one")
        made = subprocess.run(
            project.command(*project.materialize_arguments("+key:video_clips", {"video_clips": {"dvc": "off"}})),
            cwd=project.folder,
            env={**project.environment, **shared},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, log_of(made)
        subprocess.run(["cp", "-r", project.folder, root / "two"], check=True)
        listing = json.loads(next((root / "one" / "artifacts" / "video_clips").glob(f"*/{CLIP_HASHES}")).read_text())
        clips = [file["relpath"].removeprefix("videos/") for file in listing if file["relpath"].startswith("videos/")]
        clips = ["./" * time + clip for time in range(options.times) for clip in clips]
        times: dict[int, list[float]] = {1: [], 2: []}
        accounts: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for count in (1, 2):
            environment = {**shared, "HAR_RAY": "http://127.0.0.1:1"}
            with ray_cluster(root / f"head{count}", environment, of_head or None) as cluster:
                for number, name in enumerate(("one", "two")[:count]):
                    own = cores[number * options.cores : (number + 1) * options.cores]
                    cluster.add(root / name, cpus=options.cores, cores=own)
                for repeat in range(options.repeats + 1):
                    found, account = step(root / "one", cluster, s3.process.pid, of_step, clips, options.shard_clips)
                    if not repeat:  # it also starts the workers
                        continue
                    seconds, decoded, *figures = found
                    times[count].append(seconds)
                    accounts[count].append(account)
                    print(
                        f"{count} node(s) of {options.cores} cores: {seconds:.1f} s for {figures[0]} clips, "
                        f"{figures[1]:,} frames, {figures[2] / 1e6:.0f} MB; {decoded:.1f} s of them until all parts "
                        "are merged",
                        flush=True,
                    )
        say(times, accounts, cores=options.cores)
        where = "on cores of their own" if options.apart else "on the nodes' cores, or on those that no node has"
        print(f"{len(cores)} cores, bucket: {options.bucket}; the bucket, the head and the step are {where}")


def say(times: dict[int, list[float]], accounts: dict[int, list[dict[str, float]]], *, cores: int) -> None:
    """Print the ratio and both accounts; `cores` of each node."""
    one, two = (statistics.median(times[count]) for count in (1, 2))
    print(f"two nodes are {one / two:.2f} times as fast as one: medians {one:.1f} s and {two:.1f} s")
    print(f"{'processor seconds, medians':<40}{'one node':>10}{'two nodes':>10}")
    kinds = sorted({kind for account in (*accounts[1], *accounts[2]) for kind in account})
    rows = {
        kind: [statistics.median(account.get(kind, 0.0) for account in accounts[count]) for count in (1, 2)]
        for kind in kinds
    }
    rows["all of these"] = [statistics.median(sum(found.values()) for found in accounts[count]) for count in (1, 2)]
    rows["cores x seconds of the nodes"] = [cores * one, 2 * cores * two]
    for label, (of_one, of_two) in rows.items():
        print(f"{label:<40}{of_one:>10.1f}{of_two:>10.1f}")


def step(
    folder: Path, cluster: Any, bucket: int, cores: list[int], clips: list[str], shard_clips: int
) -> tuple[list[float], dict[str, float]]:
    """Run STEP as a driver of the cluster.

    Returns seconds, seconds until all is merged, clips, frames and bytes; and the account.
    """
    tied = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    run = subprocess.Popen(
        [*tied, sys.executable, "-c", STEP, json.dumps([clips, shard_clips, secrets.token_hex(32)])],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**cluster.environment, "RAY_ADDRESS": cluster.gcs},
    )
    roots = {bucket: "bucket", run.pid: "the step, its start included", cluster.head.process.pid: "head of the cluster"}
    with Account({**roots, **{node.process.pid: "node" for node in cluster.nodes}}) as account:
        said, errors = run.communicate()
    assert run.returncode == 0, errors
    found: list[float] = json.loads(said.splitlines()[-1])
    return found, account.seconds()


if __name__ == "__main__":
    main()
