"""Wall time and peak memory of the pipeline on the sample, first and again unchanged, in a new folder.

    python -m benchmarks.bench_road                 about four minutes on two cores
    python -m benchmarks.bench_road --ray           on a Ray cluster of two nodes with a CPU each, PostgreSQL and a
                                                    bucket, all of it on this machine; seconds alone

Memory is the sum of the proportional set sizes of all processes of the command, read twice a second.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
SELECT = "+key:runtime_benchmark or +key:evaluation_report"


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak GiB of a command that must succeed."""
    peak = 0.0
    started = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(child.pid)
        while not done.wait(0.5):
            total = 0
            for each in [process, *process.children(recursive=True)]:
                try:
                    total += each.memory_full_info().pss
                except psutil.Error:
                    continue
            peak = max(peak, total / 2**30)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    seconds = time.monotonic() - started
    done.set()
    watcher.join()
    if code:
        sys.exit(f"the command failed: {(folder / 'log.txt').read_text()[-3000:]}")
    return seconds, peak


def on_cluster(folder: Path) -> None:
    """Print a line for the first pipeline and one for the second, on a Ray cluster of two nodes."""
    from har_assets_tests.cluster.ray_site import Site, services, two_nodes
    from har_assets_tests.project import log_of

    with services() as (s3, postgres), two_nodes(folder, s3, postgres) as cluster:
        site = Site.prepare(folder / "site", cluster, s3, postgres, "pipeline")
        for label in ("from an empty store", "again, unchanged"):
            started = time.monotonic()
            done = site.materialize(SELECT, timeout=1800)
            if done.returncode:
                sys.exit(f"the command failed: {log_of(done)[-3000:]}")
            print(f"pipeline on two Ray nodes {label}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Print a line for the first pipeline and one for the second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of two nodes")
    if parser.parse_args().ray:
        with tempfile.TemporaryDirectory() as name:
            on_cluster(Path(name))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(REPOSITORY / file, folder)
        subprocess.run([sys.executable, "-m", "har_assets.cli", "init"], cwd=folder, check=True)
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "har_assets", "--select", SELECT]
        for label in ("from an empty store", "again, unchanged"):
            seconds, peak = measured(command, folder)
            print(f"pipeline {label}: {seconds:.0f} s, peak memory {peak:.2f} GiB", flush=True)
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)


if __name__ == "__main__":
    main()
