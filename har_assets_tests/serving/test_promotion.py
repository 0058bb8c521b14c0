"""Promotion against a real registry (a database), on published test predictions."""

import csv
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from har_assets import defs
from har_assets.errors import HarError
from har_assets.serving.package import RegistryError
from har_assets.serving.promotion import LAST_TAG, OnTestVideos, compare, promote, rollback
from har_assets.store.folder import ArtifactFolder
from har_assets.store.protocol import Store
from har_assets.store.record import Record, describe_files
from har_assets_tests.mlflow_server import free_port
from har_assets_tests.project import Project

NAMES = (f"model_{number}" for number in itertools.count())

VIDEOS = 40


class Registry:
    """A registered model of its own, and the store with what its versions say of the test videos."""

    def __init__(self, uri: str, folder: Path, store: Store | None = None) -> None:
        from mlflow import MlflowClient

        self.uri, self.name = uri, next(NAMES)
        self.client = MlflowClient(uri)
        self.client.create_registered_model(self.name)
        self.folder = folder
        self.store = store or ArtifactFolder(folder / "artifacts")
        self.source = store.address if store else str(folder)

    def register(self, right: int | set[int], *, videos: int = VIDEOS, data_version: str = "v1", **config: Any) -> str:
        """A new version, the challenger, that is right on these videos, or on the first so many."""
        right = set(range(right)) if isinstance(right, int) else right
        onnx = f"onnx-{self.name}-{sum(right)}-{videos}-{data_version}-{config}"
        with self.store.staging("test_predictions") as staging:
            with (staging / "test_predictions.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["clip", "label", "correct"])
                table.writerows([f"jump/{n}.avi", "jump", n in right] for n in range(videos))
            self.store.publish(
                staging,
                Record(
                    asset="test_predictions",
                    key=onnx.encode().hex(),
                    data_version="t",
                    headline="",
                    metadata={},
                    files=describe_files(staging),
                    checks={},
                    seconds=0.0,
                    inputs={"onnx_model": onnx},
                    lineage={"data_version": data_version},
                    config={"windows": 4, **config, "force": False},
                ),
            )
        made = self.client.create_model_version(self.name, self.source, tags={"har.onnx_model": onnx})
        self.client.set_registered_model_alias(self.name, "challenger", made.version)
        return str(made.version)

    def champion(self) -> str:
        return str(self.client.get_registered_model(self.name).aliases.get("champion", ""))

    def promote(self, **options: Any) -> Any:
        return promote(self.uri, self.name, self.store, log=lambda line: None, **options)

    def rollback(self, **options: Any) -> Any:
        return rollback(self.uri, self.name, self.store, log=lambda line: None, **options)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def registry(database: str, tmp_path: Path) -> Registry:
    return Registry(database, tmp_path)


def test_the_first_becomes_champion_and_says_so(registry: Registry) -> None:
    version = registry.register(20)
    decision = registry.promote()
    assert (decision.moved, decision.champion) == (True, version)
    assert decision.words == f"{registry.name} version {version} is champion: it is the first."
    assert registry.champion() == version
    again = registry.promote()
    assert not again.moved
    assert "is champion already: nothing was changed" in again.words


def test_a_better_one_replaces_the_champion_and_rollback_brings_it_back(registry: Registry) -> None:
    first = registry.register(20)
    registry.promote()
    second = registry.register(30)
    decision = registry.promote()
    assert decision.moved
    assert decision.comparison.p_value == pytest.approx(binomtest(10, 10).pvalue)
    assert (
        "right on 30 of 40 test videos against 20; 10 only by the challenger, 0 only by the champion" in decision.words
    )
    assert registry.champion() == second
    assert registry.client.get_model_version(registry.name, second).description == decision.words
    assert registry.rollback().champion == first
    assert registry.champion() == first
    with pytest.raises(HarError, match="is the first champion, there is none before it"):
        registry.rollback()
    assert registry.rollback(to=second).champion == second


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (25, "no more than noise at 0.05"),  # 5 to 0: p = 0.0625
        (20, "it is not better"),
        (10, "it is not better"),
        (set(range(5, 28)), "no more than noise at 0.05"),  # 8 gained, 5 lost
    ],
)
def test_no_better_than_noise_is_not_promoted(registry: Registry, right: Any, words: str) -> None:
    first = registry.register(20)
    registry.promote()
    registry.register(right)
    decision = registry.promote()
    assert not decision.moved
    assert words in decision.words
    assert f"version {first} stays champion" in decision.words
    assert registry.champion() == first


def test_another_alpha_decides_otherwise(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    second = registry.register(25)
    assert registry.promote(alpha=0.1).champion == second
    with pytest.raises(HarError, match="alpha is 1: choose a share above 0 and below 1"):
        registry.promote(alpha=1)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"videos": 41}, "tested on different videos (41 and 40, 40 in common"),
        ({"data_version": "v2"}, "or another version of the data"),
        ({"windows": 10}, "were tested differently"),
    ],
)
def test_different_tests_are_not_compared(registry: Registry, other: dict[str, Any], words: str) -> None:
    first = registry.register(20)
    registry.promote()
    registry.register(40, **other)
    with pytest.raises(HarError) as error:
        registry.promote()
    assert words in str(error.value)
    assert registry.champion() == first


def test_a_version_that_was_not_tested_here_is_one_sentence(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    made = registry.client.create_model_version(registry.name, str(registry.folder), tags={"har.onnx_model": "else"})
    with pytest.raises(HarError, match=f"There are no test predictions of version {made.version} in"):
        registry.promote(version=str(made.version))


def test_a_deleted_champion_is_missed(registry: Registry) -> None:
    first = registry.register(20)
    registry.promote()
    second = registry.register(30)
    registry.client.delete_model_version(registry.name, first)
    for move in (registry.promote, registry.rollback):
        with pytest.raises(HarError, match=rf"version {first}, has been deleted .* `har rollback --to VERSION`"):
            move()
    assert registry.rollback(to=second).champion == second


def test_a_promotion_that_was_killed_before_its_last_write_is_mended_by_the_next(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    second = registry.register(30)
    registry.client.set_registered_model_alias(registry.name, "champion", second)
    assert not registry.promote().moved
    assert registry.client.get_registered_model(registry.name).tags[LAST_TAG] == second


def test_a_version_to_return_to_that_was_deleted_is_one_sentence(registry: Registry) -> None:
    first = registry.register(10)
    registry.promote()
    second = registry.register(20)
    registry.promote()
    registry.client.delete_model_version(registry.name, first)
    with pytest.raises(HarError, match=rf"has no version {first} \(any more\): name one of {second}"):
        registry.rollback()
    with pytest.raises(HarError, match="has no version seven"):
        registry.rollback(to="seven")
    assert registry.champion() == second


def test_nothing_to_promote_is_one_sentence(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(HarError, match="has no version with the alias challenger: materialize serving_model"):
        registry.promote()
    with pytest.raises(HarError, match="has no champion yet: run `har promote`"):
        registry.rollback()
    with pytest.raises(HarError, match="There is no registered model absent: materialize serving_model"):
        promote(registry.uri, "absent", registry.store)
    with pytest.raises(HarError, match="MLflow is off"):
        promote("", registry.name, registry.store)


@pytest.mark.parametrize("move", [promote, rollback])
def test_a_registry_that_does_not_answer_is_one_sentence(move: Any, tmp_path: Path) -> None:
    for uri in (f"http://127.0.0.1:{free_port()}", "sqlite:////absent/folder/mlflow.db"):
        with pytest.raises(RegistryError, match=r"The model registry at .* does not do as asked .* start it"):
            move(uri, "model", ArtifactFolder(tmp_path))


def test_two_promotions_at_once_move_it_once(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    second = registry.register(35)
    with ThreadPoolExecutor(4) as threads:
        decisions = [future.result() for future in [threads.submit(registry.promote) for _ in range(4)]]
    assert sorted(decision.moved for decision in decisions) == [False, False, False, True]
    assert {decision.champion for decision in decisions} == {second}
    assert list(registry.store.root.glob(".promotion*")) == []


def test_the_comparison_counts_pairs() -> None:
    def tested(version: str, right: list[int]) -> OnTestVideos:
        return OnTestVideos(version, {(str(n), "x"): n in right for n in range(10)}, "v", {})

    found = compare(tested("2", [0, 1, 2, 3, 9]), tested("1", [0, 1, 7]))
    assert (found.challenger_right, found.champion_right, found.videos) == (5, 3, 10)
    assert (found.only_challenger, found.only_champion) == (3, 1)
    assert found.p_value == pytest.approx(0.625)  # 2 * (C(4,0) + C(4,1)) / 16
    same = compare(tested("2", [1]), tested("1", [1]))
    assert same.p_value == 1


def test_the_command_and_the_job_do_the_same(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(20)
    project = Project(tmp_path)
    options = ["--model", registry.name, "--tracking-uri", registry.uri]
    done = project.run("har_assets.cli", "promote", *options)
    assert done.returncode == 0
    assert done.stdout == f"{registry.name} version {version} is champion: it is the first.\n"
    done = project.run("har_assets.cli", "rollback", *options)
    assert done.returncode == 1
    assert "is the first champion" in done.stderr

    second = registry.register(39)

    def job(name: str, op: str) -> Any:
        result = defs.resolve_job_def(name).execute_in_process(
            run_config={
                "ops": {op: {"config": {"model_name": registry.name}}},
                "resources": {
                    "store": {"config": {"project": str(tmp_path)}},
                    "mlflow": {"config": {"tracking_uri": registry.uri}},
                },
            }
        )
        (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
        return output.event_specific_data.metadata

    assert job("promote", "promote_challenger")["champion"].value == second
    assert job("rollback", "return_to_champion_before")["champion"].value == version
