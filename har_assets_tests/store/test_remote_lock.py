"""The lock of a bucket: one holder among machines, kills and suspensions, servers that cannot keep it."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from har_assets import settings
from har_assets.cli.doctor import examine
from har_assets.cli.doctor import project as project_checks
from har_assets.errors import PassingError, StorageError, StorageLostError
from har_assets.store import remote_lock
from har_assets.store.remote_folder import RemoteFolder
from har_assets_tests.s3_server import S3Server, s3_server
from har_assets_tests.store.test_bucket import Machines
from har_assets_tests.store.test_bucket_pruning import prune

pytest.importorskip("s3fs", reason="no s3fs: `pip install 'har_assets[cluster]'`")
pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")

QUICK = "from har_assets.store import remote_lock as r; r.BEAT_S, r.LOST_S, r.LOOK_S = 0.2, 3.0, 0.1\n"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def connected(server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    from s3fs import S3FileSystem

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return Machines(server, folder)


@pytest.fixture
def machines(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    for name, value in (("BEAT_S", 0.2), ("LOST_S", 3.0), ("LOOK_S", 0.1)):
        monkeypatch.setattr(remote_lock, name, value)
    return connected(server, tmp_path, monkeypatch)


def silent(line: str) -> None:
    """Nobody reads it."""


COUNTS = """
import time
for turn in range(int(sys.argv[3])):
    with store.alone(lambda line: None):
        before = int(store.remote.read_object("count") or 0)
        time.sleep(0.05)
        store.remote.write_object("count", str(before + 1).encode())
"""


def test_machines_take_turns(machines: Machines) -> None:
    running = [machines.start(f"machine{number}", QUICK + COUNTS, "6") for number in range(3)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert machines["one"].remote.read_object("count") == b"18"
    assert list(machines["one"].remote.listing(remote_lock.FOLDER)) == ["000000000018"], "one object stays"


HOLDS = """
import time
with store.alone(lambda line: None) as refuse_lost:
    print("holds", flush=True)
    time.sleep(float(sys.argv[3]))
    refuse_lost()
"""


def test_a_killed_holder_is_followed_after_a_while(machines: Machines) -> None:
    holder = machines.start("one", QUICK + HOLDS, "600")
    assert holder.stdout
    assert holder.stdout.readline() == "holds\n"
    holder.kill()
    holder.communicate()
    lines: list[str] = []
    start = time.monotonic()
    with machines["two"].alone(lines.append) as refuse_lost:
        assert time.monotonic() - start > remote_lock.LOST_S
        refuse_lost()
    (line,) = lines
    assert line.startswith(f"waiting for process {holder.pid} of ")
    assert line.endswith(", which promotes or prunes; it has 3 s to give a sign of life")


def test_a_suspended_holder_is_followed_and_finds_that_it_lost(machines: Machines) -> None:
    holder = machines.start("one", QUICK + HOLDS, "1")
    assert holder.stdout
    assert holder.stdout.readline() == "holds\n"
    holder.send_signal(signal.SIGSTOP)
    with machines["two"].alone(silent):
        holder.send_signal(signal.SIGCONT)
        said = holder.communicate(timeout=60)[0]
        assert holder.returncode == 1
        assert "was taken over by another machine, as this one gave no sign of life for 3 s: run the same" in said
    assert issubclass(StorageLostError, PassingError), "a step is tried again"
    with machines["three"].alone(silent):
        pass


def test_a_holder_that_shows_life_is_waited_for_and_a_prune_waits_as_well(machines: Machines) -> None:
    """For longer than LOST_S."""
    pruned = threading.Event()

    def prune_it() -> None:
        prune(machines["two"])
        pruned.set()

    with machines["one"].alone(silent) as refuse_lost:
        thread = threading.Thread(target=prune_it)
        thread.start()
        assert not pruned.wait(remote_lock.LOST_S + 2.0)
        refuse_lost()
    assert pruned.wait(30.0)
    thread.join()


def test_who_was_suspended_before_its_number_takes_the_next_one(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have been through with that number, and its object is gone."""
    real, late = RemoteFolder.create_object, [True]

    def create(self: RemoteFolder, path: str, content: bytes) -> bool:
        if late:
            late.clear()
            for _ in range(2):
                with machines["two"].alone(silent):
                    pass
        return real(self, path, content)

    monkeypatch.setattr(RemoteFolder, "create_object", create)
    with machines["one"].alone(silent) as refuse_lost:
        refuse_lost()
        assert list(machines["one"].remote.listing(remote_lock.FOLDER)) == ["000000000003"]


def test_one_alone_creates_an_object_and_knows_it_when_the_answer_was_lost(machines: Machines) -> None:
    remote = machines["one"].remote
    assert remote.create_object("once", b"mine")
    assert not remote.create_object("once", b"of another")
    assert remote.create_object("once", b"mine"), "the same request, sent again"
    assert remote.read_object("once") == b"mine"


def test_a_server_without_conditional_puts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(conditional=False) as server:
        machines = connected(server, tmp_path, monkeypatch)
        words = r"writes over an object where `If-None-Match: \*` forbids it, .* use a server that knows conditional"
        with pytest.raises(StorageError, match=words), machines["one"].alone(silent):
            pytest.fail("it is held")
        monkeypatch.setenv(settings.ARTIFACTS, machines.address)
        [found] = examine._attempt("bucket", lambda: project_checks.check_bucket(machines.folder))
        assert found.state == "problem"
        assert "If-None-Match" in found.found
