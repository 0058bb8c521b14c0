"""Promotion against a real registry (a database), on published test predictions."""

import csv
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from har_assets import defs
from har_assets.errors import HarError
from har_assets.serving.package import RegistryError
from har_assets.serving.promotion import (
    LAST_TAG,
    OnTestVideos,
    compare,
    promote,
    rollback,
    sign_flip_p_value,
)
from har_assets.store.folder import ArtifactFolder
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, Record, describe_files
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

    def register(
        self,
        right: int | set[int],
        *,
        videos: int = VIDEOS,
        film: int = 1,
        data_version: str = "v1",
        served: str = "",
        metadata: dict[str, Any] | None = None,
        **config: Any,
    ) -> str:
        """A new version, the challenger, that is right on these videos, or on the first so many.

        `film`: videos of each film. `served`: SHA-256 of the served file, instead of the one that was tested.
        """
        right = set(range(right)) if isinstance(right, int) else right
        onnx = f"onnx-{self.name}-{sum(right)}-{videos}-{data_version}-{config}"
        manifest = self.publish(
            "test_manifest",
            "test.csv",
            [["clip", "film"], *([f"jump/{n}.avi", f"film {n // film}"] for n in range(videos))],
            data_version=f"manifest of {onnx}",
        )
        self.publish(
            "test_predictions",
            "test_predictions.csv",
            [["clip", "label", "correct"], *([f"jump/{n}.avi", "jump", n in right] for n in range(videos))],
            metadata={"onnx_sha256": f"file of {onnx}"} if metadata is None else metadata,
            inputs={"onnx_model": onnx, "test_manifest": manifest.record.data_version},
            lineage={"data_version": data_version},
            config={"windows": 4, **config, "force": False},
        )
        tags = {"har.onnx_model": onnx, "onnx_sha256": served or f"file of {onnx}", "precision": "int8"}
        made = self.client.create_model_version(self.name, self.source, tags=tags)
        self.client.set_registered_model_alias(self.name, "challenger", made.version)
        return str(made.version)

    def publish(self, asset: str, name: str, rows: list[list[Any]], **fields: Any) -> Artifact:
        with self.store.staging(asset) as staging:
            with (staging / name).open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            record: dict[str, Any] = {
                "data_version": "t",
                "headline": "",
                "metadata": {},
                "checks": {},
                "seconds": 0.0,
                "inputs": {},
                "lineage": {},
                "config": {},
                **fields,
            }
            key = repr(fields).encode().hex()
            return self.store.publish(staging, Record(asset=asset, key=key, files=describe_files(staging), **record))

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


def test_videos_of_one_film_count_together(registry: Registry) -> None:
    registry.register(20, film=10)
    registry.promote()
    registry.register(30, film=10)  # ten gained, all in one film
    decision = registry.promote()
    assert not decision.moved
    assert decision.comparison.p_value == 1
    assert "10 only by the challenger, 0 only by the champion, p = 1" in decision.words
    assert "sign-flip test by films; films that differ: 1)" in decision.words


def test_a_file_that_was_not_tested_is_not_judged_by_the_figures_of_another(registry: Registry) -> None:
    first = registry.register(20)
    registry.promote()
    registry.register(40, served="that of the int8 file")
    with pytest.raises(HarError, match=r"serves an ONNX file \(int8, .* no test predictions .* deploy it with `precis"):
        registry.promote()
    registry.register(39, metadata={"onnx_sha256": ""}, runtime="checkpoint")
    with pytest.raises(HarError, match="materialize test_predictions with `runtime: onnx`"):
        registry.promote()
    assert registry.champion() == first


@pytest.mark.parametrize("same", [True, False])
def test_predictions_that_do_not_name_their_file_are_of_the_deployed_one(registry: Registry, same: bool) -> None:
    registry.register(20)
    registry.promote()
    version = registry.register(38, metadata={}, served="" if same else "another")
    (onnx,) = (
        found.record.inputs["onnx_model"]
        for found in registry.store.versions("test_predictions")
        if not found.record.metadata
    )
    with pytest.raises(HarError, match="no test predictions"):
        registry.promote()  # its onnx_model is not here, so nobody knows
    files = {"video_action_model.onnx": {"bytes": 0, "sha256": f"file of {onnx}"}}
    with registry.store.staging("onnx_model") as staging:
        (staging / "video_action_model.onnx").touch()
        record = Record("onnx_model", "ab" * 32, onnx, files, "", {}, {}, {}, {}, {}, 0.0)
        registry.store.publish(staging, record)
    if same:
        assert registry.promote().champion == version
    else:
        with pytest.raises(HarError, match="no test predictions"):
            registry.promote()


def test_the_size_of_shards_is_no_difference(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    second = registry.register(40, shard_clips=64)
    assert registry.promote().champion == second


def test_a_manifest_that_is_gone_is_one_sentence(registry: Registry) -> None:
    registry.register(20)
    registry.promote()
    registry.register(40)
    shutil.rmtree(Path(registry.store.root) / "test_manifest")
    with pytest.raises(HarError, match=r"no longer in .* materialize test_manifest of that split and data again"):
        registry.promote()


@pytest.mark.parametrize("differences", [[3, -1, 2], [1] * 5, [4, 4, -1, 0, 2, -7], [0, 0], [-2], [5, 3, 3, 1, -1, 1]])
def test_the_p_value_is_the_share_of_all_choices_of_signs(differences: list[int]) -> None:
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(each >= abs(sum(differences)) for each in sums) / len(sums)
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_the_p_value_of_one_video_a_film_is_that_of_mcnemar() -> None:
    assert sign_flip_p_value([1] * 30 + [-1] * 15 + [0] * 9) == pytest.approx(binomtest(30, 45).pvalue)
    many = sign_flip_p_value(np.random.default_rng(0).integers(-30, 31, 20_000).tolist())  # at once, not for minutes
    assert 0 < many <= 1


def test_a_model_that_is_not_better_passes_as_seldom_as_alpha_says() -> None:
    # benchmarks/promotion_error.py has more cases. McNemar's test takes one in five of these.
    rng = np.random.default_rng(0)
    film = np.repeat(np.arange(20), 50)
    passed = np.zeros(2)
    for _ in range(1000):
        new, old = (rng.random(1000) < rng.beta(2, 2, 20)[film] for _ in range(2))
        difference = new.astype(int) - old
        if difference.sum() > 0:
            passed[0] += sign_flip_p_value(np.bincount(film, difference).astype(int).tolist()) <= 0.05
            passed[1] += sign_flip_p_value(difference.tolist()) <= 0.05
    assert passed[0] / 1000 <= 0.035
    assert passed[1] / 1000 > 0.15


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
        films = {str(n): str(n) for n in range(10)}
        return OnTestVideos(version, {(str(n), "x"): n in right for n in range(10)}, films, "v", {})

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
