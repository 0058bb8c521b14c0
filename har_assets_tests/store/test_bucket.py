"""Artifacts in a bucket, on a real server on loopback; what they share with a folder is in test_folder.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from har_assets import settings
from har_assets.cli.doctor import examine, finding
from har_assets.cli.doctor import project as project_checks
from har_assets.errors import HarError, MissingArtifactError, StorageAwayError, StorageError
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store import remote_lock
from har_assets.store.bucket import ArtifactBucket, BucketArtifact
from har_assets.store.folder import ArtifactFolder
from har_assets.store.opening import open_store
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, Record, describe_files
from har_assets.store.remote_folder import MOST_PARTS, PART_BYTES, S3_OPTIONS, RemoteFolder
from har_assets.store.work_folder import STAGING_PREFIX
from har_assets_tests.published import make_record
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server
from har_assets_tests.store.test_folder import publish

pytest.importorskip("s3fs", reason="no s3fs: `pip install 'har_assets[cluster]'`")
pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")

KEY = "a" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[S3Server], None]]:
    """Sets the variables of a server in this process, whose file systems fsspec keeps."""
    from s3fs import S3FileSystem

    def connect(server: S3Server) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()

    yield connect
    S3FileSystem.clear_instance_cache()


class Machines:
    """Machines that share an address; each has a work folder of its own."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.address = f"s3://{BUCKET}/{folder.name}/har"

    def __getitem__(self, name: str) -> ArtifactBucket:
        store = open_store(self.address, self.folder / name)
        assert isinstance(store, ArtifactBucket)
        return store

    def start(self, name: str, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Python code in a process, with `store` at hand."""
        start = "import sys; from har_assets.store.opening import open_store\n"
        start += "from har_assets_tests.store.test_folder import make_record, publish\n"
        start += "store = open_store(sys.argv[1], sys.argv[2])\n"
        return subprocess.Popen(
            [sys.executable, "-c", start + code, self.address, str(self.folder / name), *arguments],
            env={**os.environ, **self.server.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def key_of(self, path: str) -> str:
        return f"{self.folder.name}/har/{path}"

    def put(self, path: str, content: bytes) -> None:
        self.server.client().put_object(Bucket=BUCKET, Key=self.key_of(path), Body=content)

    def objects(self, below: str = "") -> list[str]:
        """Paths of all objects, the one of the lock left out."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.key_of(below))
        found = [entry["Key"].removeprefix(self.key_of("")) for page in pages for entry in page.get("Contents", [])]
        return [path for path in found if not path.startswith(f"{remote_lock.FOLDER}/")]


@pytest.fixture
def machines(server: S3Server, tmp_path: Path, connect: Callable[[S3Server], None]) -> Machines:
    connect(server)
    return Machines(server, tmp_path)


def publish_large(store: Store, size: int, key: str = KEY, fill: bytes = b"0123456789abcdef") -> Artifact:
    with store.staging("trained_checkpoint") as folder:
        (folder / "large.bin").write_bytes((fill * (size // len(fill) + 1))[:size])
        (folder / "small.txt").write_text(key)
        record = make_record("trained_checkpoint", key)
        return store.publish(folder, replace(record, files=describe_files(folder)))


def test_another_machine_reads_the_latest_version_by_local_paths(machines: Machines) -> None:
    publish(machines["one"], make_record(key="a" * 64), "old")
    published = publish(machines["one"], make_record(key="b" * 64), "new")
    read = machines["two"].latest("onnx_model")
    assert read.record == published.record
    assert read.address == f"{machines.address}/onnx_model/{published.folder.name}"
    assert read.file("model.onnx").read_text() == "new"
    assert (machines.folder / "two/onnx_model/latest/model.onnx").read_text() == "new"
    found = machines["two"].find("onnx_model", "a" * 64)
    assert found is not None
    assert found.file("model.onnx").read_text() == "old"
    assert sorted(version.record.key[0] for version in machines["two"].versions("onnx_model")) == ["a", "b"]
    assert sorted(path.name for path in (machines.folder / "two/onnx_model").iterdir()) == sorted(
        [found.folder.name, read.folder.name, "latest"]
    )


def test_files_are_copied_when_they_are_asked_for_and_once(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(machines["one"], make_record())
    read = machines["two"].latest("onnx_model")
    assert isinstance(read, BucketArtifact)
    assert read.bytes == 1
    assert "onnx_model" in repr(read)
    assert not read.copy.exists()
    before = read.file("model.onnx").stat().st_ino
    monkeypatch.setattr(RemoteFolder, "read_part", lambda *arguments: pytest.fail("copied again"))
    assert machines["two"].latest("onnx_model").file("model.onnx").stat().st_ino == before


def publish_packs(store: Store, key: str, **packs: bytes) -> Artifact:
    with store.staging("frame_cache_part") as folder:
        for name, content in packs.items():
            (folder / f"{name}.npy").write_bytes(content)
        (folder / "index.csv").write_text("clip\n")
        return store.publish(folder, make_record("frame_cache_part", key, files=describe_files(folder)))


def test_single_files_are_copied_where_no_more_are_asked_for(machines: Machines) -> None:
    publish_packs(machines["one"], KEY, one=b"1" * 100, two=b"2" * 100)
    read = machines["two"].latest("frame_cache_part")
    assert isinstance(read, BucketArtifact)
    folder = read.folder_with(["index.csv"])
    assert {path.name for path in folder.iterdir()} == {"index.csv", "artifact.json"}
    assert read.folder_with(["two.npy"]) == folder
    assert (folder / "two.npy").read_bytes() == b"2" * 100
    assert not (folder / "one.npy").exists()
    assert machines["two"].latest("frame_cache_part").file("one.npy").read_bytes() == b"1" * 100
    machines["two"].drop_copy(read)
    assert not read.copy.exists()
    assert machines["two"].latest("frame_cache_part").file("one.npy").read_bytes() == b"1" * 100


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_version_takes_files_of_others_over_and_keeps_them(machines: Machines, kind: str, tmp_path: Path) -> None:
    here: Store = machines["one"]
    there: Store = machines["two"]
    if kind == "folder":
        here = there = ArtifactFolder(tmp_path / "store")
    parts = [publish_packs(there, letter * 64, **{letter: letter.encode() * 1000}) for letter in "ab"]
    linked = {f"{letter}.npy": part for letter, part in zip("ab", parts, strict=True)}
    with here.staging("frame_cache") as folder:
        (folder / "index.csv").write_text("clip\n")
        files = {**describe_files(folder), **{name: part.record.files[name] for name, part in linked.items()}}
        published = here.publish(folder, make_record("frame_cache", KEY, files=files), linked)
    if isinstance(published, BucketArtifact):
        assert not (published.copy / "a.npy").exists(), "it has not been here"
    for part in parts:
        there.discard(part)
    for store in (here, there):
        assert [store.latest("frame_cache").file(f"{x}.npy").read_bytes() for x in "ab"] == [b"a" * 1000, b"b" * 1000]


def test_folders_inside_a_version_and_packs_without_a_hash(machines: Machines) -> None:
    with machines["one"].staging("frame_cache") as folder:
        (folder / "model").mkdir()
        (folder / "model" / "MLmodel").write_text("x")
        (folder / "empty").touch()
        (folder / "pack.npy").write_bytes(b"frames")
        machines["one"].publish(folder, make_record("frame_cache", files=describe_files(folder)))
    read = machines["two"].latest("frame_cache")
    assert read.record.files["pack.npy"]["sha256"] is None
    assert {name: read.file(name).read_bytes() for name in ("model/MLmodel", "empty", "pack.npy")} == {
        "model/MLmodel": b"x",
        "empty": b"",
        "pack.npy": b"frames",
    }


def test_large_files_go_and_come_in_parts(machines: Machines) -> None:
    size = 2 * PART_BYTES + 12_345
    published = publish_large(machines["one"], size)
    head = machines.server.client().head_object(
        Bucket=BUCKET, Key=machines.key_of(f"trained_checkpoint/{published.folder.name}/large.bin")
    )
    assert head["ETag"].strip('"').endswith("-3")
    assert machines["two"].latest("trained_checkpoint").file("large.bin").read_bytes() == (
        published.file("large.bin").read_bytes()
    )


def test_same_key_again_keeps_both_versions(machines: Machines) -> None:
    first = publish(machines["one"], make_record(), "first")
    time.sleep(1.1)  # names carry seconds
    second = publish(machines["one"], make_record(), "second")
    found = machines["two"].find("onnx_model", KEY)
    assert found is not None
    assert found.file("model.onnx").read_text() == "second"
    assert first.folder != second.folder
    machines["two"].point_to(first)
    assert machines["one"].latest("onnx_model").file("model.onnx").read_text() == "first"


def test_a_store_inside_borrows_from_the_outer_one(machines: Machines) -> None:
    outer = publish(machines["one"], make_record())
    inner = machines["one"].below("split_evaluation/1")
    found = inner.find("onnx_model", KEY)
    assert found == outer
    assert inner.find_latest("onnx_model") is None
    inner.point_to(outer)
    read = machines["two"].below("split_evaluation/1").latest("onnx_model")
    assert read.address == outer.address
    assert read.file("model.onnx").read_text() == "x"
    assert read.folder.parent == machines.folder / "two" / "onnx_model"


def test_missing_asset_names_the_command(machines: Machines) -> None:
    assert machines["one"].find("trt_engine", KEY) is None
    assert machines["one"].versions("trt_engine") == []
    with pytest.raises(MissingArtifactError, match=r"trt_engine has not been materialized.*\+key:trt_engine"):
        machines["one"].latest("trt_engine")


def test_missing_bucket_is_not_a_missing_asset(machines: Machines) -> None:
    store = open_store("s3://no-such-bucket/har", machines.folder / "one")
    for use in (lambda: store.find_latest("onnx_model"), lambda: store.find("onnx_model", KEY)):
        with pytest.raises(StorageError, match=r"There is no bucket no-such-bucket: correct s3://no-such-bucket/har"):
            use()


def test_two_machines_publish_one_asset_at_the_same_moment(machines: Machines) -> None:
    """Both end, one is latest, none is mixed."""
    code = (
        "from har_assets_tests.store.test_bucket import publish_large; import time\n"
        "time.sleep(max(0, float(sys.argv[4]) - time.time()))\n"
        "print(publish_large(store, 40_000_000, fill=sys.argv[3].encode()).folder.name)"
    )
    moment = str(time.time() + 4)
    running = [machines.start(name, code, name, moment) for name in ("one", "two")]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    names = [text.split()[-1] for text in said]
    assert len(set(names)) == 2
    latest = machines["three"].latest("trained_checkpoint")
    assert latest.folder.name in names
    for version in machines["three"].versions("trained_checkpoint"):
        assert set(version.file("large.bin").read_bytes()) in (set(b"one"), set(b"two"))
        assert version.file("large.bin").stat().st_size == 40_000_000
    assert len(machines["three"].versions("trained_checkpoint")) == 2


def test_killed_while_uploading_leaves_the_version_before(machines: Machines) -> None:
    before = publish_large(machines["one"], 1000)
    code = (
        "from har_assets_tests.store.test_bucket import publish_large\n"
        "from har_assets.store.remote_folder import RemoteFolder as R; put = R.upload\n"
        "def tell(*arguments):\n    put(*arguments); print('put', flush=True)\n"
        "R.upload = tell; publish_large(store, 60_000_000, 'b' * 64)"
    )
    process = machines.start("one", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "put\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    rest = {path.split("/")[1] for path in machines.objects("trained_checkpoint/b")}
    assert len(rest) == 1  # what was uploaded is there, and is no version
    assert machines["two"].latest("trained_checkpoint") == before
    assert machines["two"].find("trained_checkpoint", "b" * 64) is None
    assert len(machines["two"].versions("trained_checkpoint")) == 1
    again = publish_large(machines["one"], 2000, "b" * 64)
    assert machines["two"].latest("trained_checkpoint") == again
    assert not list((machines.folder / "one/trained_checkpoint").glob(f"{STAGING_PREFIX}*"))


def test_uploads_that_were_killed_long_ago_are_removed(machines: Machines) -> None:
    machines.put("onnx_model/cccccccccccc.20200101T000000-000000/model.onnx", b"half")
    machines.put("onnx_model/dddddddddddd.20990101T000000-000000/model.onnx", b"being uploaded")
    published = publish(machines["one"], make_record())
    assert sorted(machines.objects("onnx_model")) == sorted(
        [
            f"onnx_model/{published.folder.name}/artifact.json",
            f"onnx_model/{published.folder.name}/model.onnx",
            "onnx_model/dddddddddddd.20990101T000000-000000/model.onnx",
            "onnx_model/latest",
        ]
    )


def test_a_copy_goes_on_where_it_was_killed(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish_large(machines["one"], 3 * PART_BYTES)
    code = (
        "from har_assets.store.remote_folder import RemoteFolder as R; import time; part = R.read_part\n"
        "def slow(self, place, start, end):\n"
        "    if start >= 2 * 16 * 2**20: print('two parts', flush=True); time.sleep(60)\n"
        "    return part(self, place, start, end)\n"
        "R.read_part = slow; store.latest('trained_checkpoint').folder"
    )
    process = machines.start("two", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "two parts\n"
    partial = machines.folder / "two/trained_checkpoint" / f".fetching-{published.folder.name}/large.bin"
    deadline = time.monotonic() + 30
    while not partial.is_file() or partial.stat().st_size < PART_BYTES:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (partial.parent.parent / published.folder.name).exists()
    asked: list[int] = []
    part = RemoteFolder.read_part

    def counted(self: RemoteFolder, path: str, start: int, end: int) -> bytes:
        if path.endswith("large.bin"):
            asked.append(start)
        return part(self, path, start, end)

    monkeypatch.setattr(RemoteFolder, "read_part", counted)
    read = machines["two"].latest("trained_checkpoint")
    assert read.file("large.bin").read_bytes() == published.file("large.bin").read_bytes()
    assert 0 not in asked
    assert sorted(path.name for path in partial.parent.parent.iterdir()) == sorted([read.folder.name, "latest"])


def test_unfinished_copies_that_nobody_came_back_for_are_removed(machines: Machines) -> None:
    home = machines.folder / "two/onnx_model"
    old, new = home / ".fetching-cccccccccccc.20260101T000000-000000", home / ".fetching-other"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    publish(machines["one"], make_record())
    machines["two"].latest("onnx_model").file("model.onnx")
    assert not old.exists()
    assert new.exists()


def test_processes_of_one_machine_share_a_copy(machines: Machines) -> None:
    publish_large(machines["one"], 40_000_000)
    code = (
        "from har_assets.store.remote_folder import RemoteFolder as R; part = R.read_part; count = []\n"
        "def counted(*arguments):\n    count.append(1); return part(*arguments)\n"
        "R.read_part = counted; found = store.latest('trained_checkpoint')\n"
        "print(len(count) or found.file('large.bin').stat().st_size, len(count))"
    )
    running = [machines.start("two", code) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sorted(int(words[-1]) for words in said)[:2] == [0, 0]
    assert sum(int(words[-1]) for words in said) == 4  # three parts of the large file, one of the small


def test_a_copy_that_lost_a_file_is_mended(machines: Machines) -> None:
    publish_large(machines["one"], 5000)
    read = machines["two"].latest("trained_checkpoint")
    kept = read.file("small.txt").stat().st_ino
    os.truncate(read.file("large.bin"), 100)
    assert read.file("large.bin").stat().st_size == 5000
    (read.folder / "large.bin").unlink()
    assert machines["two"].latest("trained_checkpoint").file("large.bin").stat().st_size == 5000
    assert read.file("small.txt").stat().st_ino == kept


def test_other_bytes_in_the_bucket_are_refused_and_right_ones_taken(machines: Machines) -> None:
    published = publish(machines["one"], make_record(), "right")
    path = f"onnx_model/{published.folder.name}/model.onnx"
    machines.put(path, b"wrong")
    read = machines["two"].latest("onnx_model")
    with pytest.raises(StorageError, match=r"model\.onnx does not have the bytes that were published.*force: true"):
        read.file("model.onnx")
    machines.put(path, b"cut")
    with pytest.raises(StorageError, match="is gone or shorter"):
        read.file("model.onnx")
    machines.put(path, b"right")
    assert read.file("model.onnx").read_text() == "right"


@pytest.mark.parametrize("name", ["../../../../etc", "/etc", "..", "../../.."])
def test_a_pointer_out_of_the_store_is_refused(machines: Machines, name: str) -> None:
    machines.put("onnx_model/latest", name.encode())
    with pytest.raises(StorageError, match=r"which is no version|is not there"):
        machines["one"].find_latest("onnx_model")


def test_a_pointer_to_nothing_is_told_from_no_pointer(machines: Machines) -> None:
    machines.put("onnx_model/latest", b"eeeeeeeeeeee.20260101T000000-000000\n")
    with pytest.raises(StorageError, match="names a version that is not there: materialize onnx_model again"):
        machines["one"].find_latest("onnx_model")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside"])
def test_a_file_name_out_of_its_version_is_refused(machines: Machines, name: str) -> None:
    record = make_record(files={name: {"bytes": 1, "sha256": None}})
    machines.put("onnx_model/eeeeeeeeeeee.20260101T000000-000000/artifact.json", record.text().encode())
    machines.put("onnx_model/latest", b"eeeeeeeeeeee.20260101T000000-000000\n")
    with pytest.raises(StorageError, match="outside itself"):
        machines["one"].latest("onnx_model")


def test_a_copy_that_does_not_fit_is_refused_before_it_starts(machines: Machines) -> None:
    record = make_record(files={"huge.bin": {"bytes": 10**18, "sha256": None}})
    machines.put("onnx_model/eeeeeeeeeeee.20260101T000000-000000/artifact.json", record.text().encode())
    machines.put("onnx_model/latest", b"eeeeeeeeeeee.20260101T000000-000000\n")
    with pytest.raises(HarError, match=r"needs 1000000.0 TB .* free some space, or set work_root"):
        _ = machines["one"].latest("onnx_model").folder


def test_a_server_that_goes_away_is_named_and_nothing_is_lost(
    tmp_path: Path, connect: Callable[[S3Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_OPTIONS["config_kwargs"], "retries", {"mode": "standard", "max_attempts": 1})
    with s3_server() as server:
        connect(server)
        one = Machines(server, tmp_path)["one"]
        publish(one, make_record(), "kept")
        read = Machines(server, tmp_path)["two"].latest("onnx_model")
        server.kill()
        words = r"s3://har-test/.* cannot be reached, or failed \(.*\): check AWS_ENDPOINT_URL, the network"
        with pytest.raises(StorageAwayError, match=words):
            read.file("model.onnx")
        with pytest.raises(StorageAwayError, match=words):
            publish(one, make_record(key="b" * 64))
    assert not list((tmp_path / "one/onnx_model").glob(f"{STAGING_PREFIX}*"))
    assert not list((tmp_path / "two/onnx_model").glob("[!.]*/"))


def test_wrong_and_missing_keys_are_named(
    tmp_path: Path, connect: Callable[[S3Server], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server lets so many requests in before it looks at keys: those that make the bucket and the one user.
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="4") as server:
        iam = server.client("iam")
        iam.create_user(UserName="team")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="team", PolicyName="all", PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName="team")["AccessKey"]
        good = S3Server(server.port, server.process, made["AccessKeyId"], made["SecretAccessKey"])
        connect(good)
        publish(Machines(good, tmp_path)["one"], make_record())

        words = r"does not let this machine {} \(.*\): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        for key, secret in (("nobody", made["SecretAccessKey"]), (made["AccessKeyId"], "wrong")):
            connect(S3Server(server.port, server.process, key, secret))
            with pytest.raises(StorageError, match=words.format("read")):
                Machines(good, tmp_path)["two"].latest("onnx_model")
            with pytest.raises(StorageError, match=words.format("list")):
                publish(Machines(good, tmp_path)["two"], make_record())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match=words.format("read")):
            Machines(good, tmp_path)["two"].latest("onnx_model")


def test_the_address_is_chosen_by_option_then_by_variable_then_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.ARTIFACTS, raising=False)
    project = str(tmp_path)
    store = ArtifactStore(project=project).folder
    assert type(store) is ArtifactFolder
    assert store.root == tmp_path / "artifacts"
    monkeypatch.setenv(settings.ARTIFACTS, "s3://team/har/")
    store = ArtifactStore(project=project, work_root="work").folder
    assert isinstance(store, ArtifactBucket)
    assert (store.address, store.root) == ("s3://team/har", tmp_path / "work")
    assert ArtifactStore(project=project, root="elsewhere").folder.address == str(tmp_path / "elsewhere")


def test_doctor_tries_the_bucket(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.ARTIFACTS, raising=False)
    found = project_checks.check_bucket(machines.folder)
    assert isinstance(found, finding.Finding)
    assert (found.state, found.found) == ("ok", f"none: products are in {machines.folder / 'artifacts'}")
    monkeypatch.setenv(settings.ARTIFACTS, machines.address)
    found = project_checks.check_bucket(machines.folder)
    assert isinstance(found, finding.Finding)
    assert found.found.startswith(f"{machines.address} takes, gives and removes an object in ")
    assert machines.objects() == []
    monkeypatch.setenv(settings.ARTIFACTS, "s3://no-such-bucket/har")
    [found] = examine._attempt("bucket", lambda: project_checks.check_bucket(machines.folder))
    assert (found.state, "There is no bucket no-such-bucket" in found.found) == ("problem", True)


def test_an_address_of_no_known_kind_names_the_packages(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"foo://x cannot be opened .*har_assets\[cluster\]"):
        open_store("foo://x", tmp_path).find_latest("onnx_model")


def test_any_kind_of_fsspec_will_do(tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}"
    publish(open_store(address, tmp_path / "one"), make_record(), "by memory")
    assert open_store(address, tmp_path / "two").latest("onnx_model").file("model.onnx").read_text() == "by memory"


def test_parts_of_huge_files_stay_within_what_s3_takes(tmp_path: Path) -> None:
    sizes: list[dict[str, Any]] = []

    class Remote:
        protocol = ("s3",)

        def _strip_protocol(self, address: str) -> str:
            return address.removeprefix("s3://")

        def put_file(self, file: str, place: str, **options: Any) -> None:
            sizes.append(options)

    remote = RemoteFolder("s3://x", "")
    vars(remote)["_remote"] = Remote()
    remote.upload(tmp_path, "y", 5 * 10**12)
    assert 5 * 10**12 / sizes[0]["chunksize"] <= MOST_PARTS


def test_records_travel_unchanged(tmp_path: Path) -> None:
    record = make_record(lineage={"split": 1}, headline="é")
    assert Record.parse(record.text()) == record
    assert Record.parse(b"{") is None
