"""Promotions of two machines at once: work folders of their own, one bucket, one MLflow server."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from har_assets.serving.promotion import LAST_TAG
from har_assets.store import remote_lock
from har_assets.tracking.tags import BEFORE_TAG
from har_assets_tests.mlflow_server import MlflowServer
from har_assets_tests.s3_server import S3Server, s3_server
from har_assets_tests.serving.test_promotion import Registry
from har_assets_tests.store.test_bucket import Machines

pytest.importorskip("s3fs", reason="no s3fs: `pip install 'har_assets[cluster]'`")
pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


class Promotions:
    """A champion and two versions that are better than it, of which the second is the best."""

    def __init__(self, machines: Machines, uri: str) -> None:
        self.machines = machines
        self.registry = Registry(uri, machines.folder, machines["trainer"])
        self.registry.register(10)
        self.registry.promote()
        self.better, self.best = (self.registry.register(right) for right in (20, 35))

    def start(self, machine: str, version: str, code: str = "", *arguments: str) -> subprocess.Popen[str]:
        """`har promote --version VERSION` on a machine; `code` runs before, with what it prints to be seen."""
        promote = (
            "import time; from mlflow import MlflowClient; from pathlib import Path\n"
            "from har_assets.serving import promotion; from har_assets.store import remote_lock as r\n"
            "r.BEAT_S, r.LOST_S, r.LOOK_S = 0.2, 4.0, 0.1\n"
            f"{code}\n"
            "print('begins', flush=True)\n"
            "print(promotion.promote(sys.argv[3], sys.argv[4], store, version=sys.argv[5]).words, flush=True)\n"
        )
        return self.machines.start(machine, promote, self.registry.uri, self.registry.name, version, *arguments)

    @property
    def state(self) -> tuple[str | None, str, str | None, str | None]:
        """The champion, the last champion, and which were champion before the better and before the best one."""
        client, name = self.registry.client, self.registry.name
        model = client.get_registered_model(name)
        before = [client.get_model_version(name, number).tags.get(BEFORE_TAG) for number in (self.better, self.best)]
        return str(model.aliases["champion"]), model.tags[LAST_TAG], before[0], before[1]


@pytest.fixture
def promotions(
    s3: S3Server, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Promotions]:
    from s3fs import S3FileSystem

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    for name, seconds in (("BEAT_S", 0.2), ("LOST_S", 4.0), ("LOOK_S", 0.1)):
        monkeypatch.setattr(remote_lock, name, seconds)
    yield Promotions(Machines(s3, tmp_path), mlflow_server.uri)
    S3FileSystem.clear_instance_cache()


SLOW = """
compare = promotion.compare
def slowly(*arguments):
    found = compare(*arguments)
    print("compared", flush=True)
    time.sleep(float(sys.argv[6]))
    return found
promotion.compare = slowly
Path(sys.argv[7], f"ready{sys.argv[5]}").touch()
while len(list(Path(sys.argv[7]).glob("ready*"))) < 2:
    time.sleep(0.05)
"""

UNLOCKED = """
import contextlib
from har_assets.store.bucket import ArtifactBucket
ArtifactBucket.alone = lambda self, log: contextlib.nullcontext(lambda: None)
"""


@pytest.mark.parametrize("locked", [True, False])
def test_two_promotions_end_as_one_after_the_other_would(promotions: Promotions, tmp_path: Path, locked: bool) -> None:
    """Without the lock both are compared with the first champion, and one of them is lost from the way back."""
    code = SLOW if locked else UNLOCKED + SLOW
    versions = {"one": promotions.better, "two": promotions.best}
    running = [promotions.start(name, version, code, "5", str(tmp_path)) for name, version in versions.items()]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    first, better, best = "1", promotions.better, promotions.best
    in_turn = {(best, best, first, better), (best, best, None, first)}
    assert (promotions.state in in_turn) == locked, said
    if locked:
        assert sum("waiting for process" in text for text in said) == 1
        assert promotions.registry.rollback().champion in (first, better)


KILLED = """
tag = MlflowClient.set_registered_model_tag
def never(*arguments):
    print("between alias and tag", flush=True)
    time.sleep(600)
MlflowClient.set_registered_model_tag = never
"""


def lines_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line


def test_a_promotion_that_is_killed_in_its_midst_holds_up_the_next_for_a_while_alone(promotions: Promotions) -> None:
    killed = promotions.start("one", promotions.better, KILLED)
    lines_until(killed, "between alias and tag")
    killed.kill()
    killed.communicate()
    assert promotions.state == (promotions.better, "1", "1", None)
    process = promotions.start("two", promotions.best)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    assert f"waiting for process {killed.pid} of " in said
    assert promotions.state == (promotions.best, promotions.best, "1", promotions.better)


def test_a_promotion_that_was_suspended_while_another_was_through_moves_nothing(promotions: Promotions) -> None:
    suspended = promotions.start("one", promotions.better, SLOW, "1", str(promotions.machines.folder))
    (promotions.machines.folder / "ready").touch()
    lines_until(suspended, "compared")
    os.kill(suspended.pid, signal.SIGSTOP)
    with contextlib.ExitStack() as cleaned:
        cleaned.callback(suspended.kill)
        process = promotions.start("two", promotions.best)
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said
        os.kill(suspended.pid, signal.SIGCONT)
        said = suspended.communicate(timeout=60)[0]
    assert suspended.returncode == 1
    assert "was taken over by another machine" in said
    assert promotions.state == (promotions.best, promotions.best, None, "1")
