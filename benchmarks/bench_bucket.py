"""Publish an artifact into a bucket and read it on another machine, against boto3 alone on the same server.

    python -m benchmarks.bench_bucket                              # 1 GB, a server of its own on loopback
    python -m benchmarks.bench_bucket --bucket NAME --gigabytes 4  # the bucket that the AWS_ variables lead to

`boto3` is upload_file and download_file, what `aws s3 cp` uses, with parts as large and as many at once as ours: it
hashes and checks nothing. The server on loopback (moto) holds objects in memory and copies the whole object for each
part that is read, so that reading measures it and hardly the client; a real bucket gives the figures that count.
What `publish` and `latest` do beyond it: SHA-256 of every file before and after, sizes looked up, record and pointer.
Also: a copy that is there already (what each later step of a machine pays), and the folder store for comparison.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from har_assets.store.folder import ArtifactFolder
from har_assets.store.opening import open_store
from har_assets.store.protocol import Store
from har_assets.store.record import describe_files
from har_assets.store.remote_folder import PART_BYTES, PARTS_AT_ONCE
from har_assets_tests.published import make_record


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3, help="The median is shown.")
    parser.add_argument("--bucket", default="", help="An existing bucket; what is written there is removed again.")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        bucket = arguments.bucket
        if not bucket:
            from har_assets_tests.s3_server import BUCKET, s3_server

            os.environ.update(stack.enter_context(s3_server()).environment)
            bucket = BUCKET
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measure(folder, bucket, int(arguments.gigabytes * 1e9), arguments.rounds)


def measure(folder: Path, bucket: str, size: int, rounds: int) -> None:
    """Time every way `rounds` times in turn with a file of `size` bytes."""
    import boto3
    from boto3.s3.transfer import TransferConfig

    source = folder / "model.bin"
    block = os.urandom(2**20)
    with source.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
    client = boto3.client("s3")
    parts = TransferConfig(PART_BYTES, PARTS_AT_ONCE, PART_BYTES)
    prefix = f"har-benchmark-{os.getpid()}"
    address = f"s3://{bucket}/{prefix}"
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    def publish(open_here: Callable[[], Store], key: str) -> None:
        store = open_here()
        with store.staging("model") as staging:
            os.link(source, staging / source.name)
            store.publish(staging, make_record("model", key=key, files=describe_files(staging)))

    def use_latest(store: Store) -> Path:
        return store.latest("model").file(source.name)

    try:
        for number in range(rounds):
            key = f"{number:064x}"
            timed("boto3 upload", lambda: client.upload_file(str(source), bucket, f"{prefix}/plain", Config=parts))
            timed("publish", partial(publish, partial(open_store, address, folder / "one"), key))
            timed(
                "boto3 download",
                lambda: client.download_file(bucket, f"{prefix}/plain", str(folder / "plain"), Config=parts),
            )
            read = open_store(address, folder / "two")
            timed("latest, first use", partial(use_latest, read))
            timed("latest, copied before", partial(use_latest, read))
            timed("folder: publish", partial(publish, partial(ArtifactFolder, folder / "local"), key))
            timed("folder: latest", partial(use_latest, ArtifactFolder(folder / "local")))
            for name in ("one", "two", "local"):
                shutil.rmtree(folder / name)
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=bucket, Key=entry["Key"])
    print(f"{size / 1e9:.1f} GB, median of {rounds}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:24}{median:9.3f} s" + (f"{size / median / 1e6:9.0f} MB/s" if median > 0.2 else ""))


if __name__ == "__main__":
    main()
