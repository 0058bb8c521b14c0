"""Which version serves: the alias `champion` moves only to one that is better on the same test videos beyond noise.

Both models have answered each test video. Videos that both got right, or both wrong, say nothing about which is better.
Videos of one film are alike: a model that is better on one of them is often better on the others. So the test counts
films: a film's difference is the number of its videos that the challenger alone got right, less that of the champion.
If the two were equally good, each film's difference would as well have the other sign. The p-value is the share of all
choices of signs whose sum is as far from 0 as the one found, or further (sign-flip permutation test, exact, two-sided).
With one video a film it is the exact test of McNemar (Psychometrika 12, 1947).

References:
    Good 2005, "Permutation, Parametric, and Bootstrap Tests of Hypotheses", on matched pairs
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from har_assets.errors import HarError
from har_assets.model.files import ONNX
from har_assets.report.options import PREDICTIONS, PredictionOptions
from har_assets.serving.package import CHALLENGER, CHAMPION, registry_in_words
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.files import Log, silent
from har_assets.tracking.client import client_of
from har_assets.tracking.tags import BEFORE_TAG, ONNX_VERSION_TAG, SHA256_TAG

LAST_TAG = "har.champion"
"""Tag of the registered model: its last champion, so that a deleted one is missed."""

ALPHA = 0.05
"""Largest p-value that is taken for more than noise."""


@dataclass(frozen=True)
class OnTestVideos:
    """The test results of a version."""

    version: str
    right: dict[tuple[str, str], bool]
    """(clip, true label) to whether the highest score was that of the label."""
    film: dict[str, str]
    """Source film of each clip."""
    data_version: str
    protocol: dict[str, Any]
    """Options of the test that decide its answers: windows, runtime."""


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same videos."""

    videos: int
    challenger_right: int
    champion_right: int
    only_challenger: int
    """Videos that the challenger alone got right."""
    only_champion: int
    films: int
    """Films on which one of both got more videos right."""
    p_value: float
    """Probability of a difference like this between two equally good models, two-sided."""

    @property
    def words(self) -> str:
        """Both figures, where they differ, and how likely that is by chance."""
        return (
            f"right on {self.challenger_right} of {self.videos} test videos against {self.champion_right}; "
            f"{self.only_challenger} only by the challenger, {self.only_champion} only by the champion, "
            f"p = {self.p_value:.2g} (exact sign-flip test by films; films that differ: {self.films})"
        )


@dataclass(frozen=True)
class Decision:
    """The outcome of a promotion or rollback."""

    moved: bool
    champion: str
    """Version that has the alias now; empty where none has."""
    words: str
    comparison: Comparison | None = None


def tested_version(store: Store, version: Any) -> OnTestVideos:
    """The newest test predictions of the ONNX file of a registered version.

    Raises:
        HarError: with the way out, where there are none here, they are of another file of the same onnx_model (another
            precision) or of the checkpoint, or their test_manifest is gone.
    """
    onnx_version = version.tags.get(ONNX_VERSION_TAG, "")
    of_version = [
        artifact
        for artifact in store.versions("test_predictions")
        if artifact.record.inputs.get("onnx_model") == onnx_version
    ]
    if not of_version:
        raise HarError(
            f"There are no test predictions of version {version.version} in {store.address}: materialize "
            "test_predictions while its onnx_model is the latest, `dagster asset materialize -m har_assets --select "
            "test_predictions`."
        )
    served = version.tags.get(SHA256_TAG, "")
    found = [artifact for artifact in of_version if _tested_file(store, artifact) == served] if served else of_version
    if not found:
        precision = version.tags.get("precision", "its precision")
        raise HarError(
            f"Version {version.version} serves an ONNX file ({precision}, SHA-256 {served[:12]}) that no test "
            f"predictions in {store.address} are of: deploy it with `precision: {precision}` on onnx_model, "
            "materialize test_predictions with `runtime: onnx`, register it again, and promote that version."
        )
    newest = max(found, key=lambda artifact: artifact.record.created)
    with newest.file(PREDICTIONS).open(newline="") as file:
        right = {(row["clip"], row["label"]): row["correct"] == "True" for row in csv.DictReader(file)}
    protocol = PredictionOptions.from_recorded(newest.record.config, silent).content()
    film = _films(store, newest, version)
    return OnTestVideos(str(version.version), right, film, str(newest.record.lineage["data_version"]), protocol)


def _tested_file(store: Store, predictions: Artifact) -> str:
    """SHA-256 of the ONNX file that test predictions are of; empty where it was the checkpoint, or is not known."""
    record = predictions.record
    if SHA256_TAG in record.metadata:
        return str(record.metadata[SHA256_TAG])
    if record.config.get("runtime", "onnx") != "onnx":
        return ""
    for onnx in store.versions("onnx_model"):  # these records are older than the entry: the deployed file was tested
        if onnx.record.data_version == record.inputs["onnx_model"]:
            return str(onnx.record.files[ONNX]["sha256"])
    return ""


def _films(store: Store, predictions: Artifact, version: Any) -> dict[str, str]:
    """Clip to source film, from the test_manifest that the predictions were made with."""
    wanted = predictions.record.inputs.get("test_manifest")
    for manifest in store.versions("test_manifest"):
        if manifest.record.data_version == wanted:
            with manifest.file("test.csv").open(newline="") as file:
                return {row["clip"]: row["film"] for row in csv.DictReader(file)}
    raise HarError(
        f"The test_manifest of the test predictions of version {version.version} is no longer in {store.address}, so "
        "the films of its videos are not known: materialize test_manifest of that split and data again."
    )


def sign_flip_p_value(differences: Iterable[int]) -> float:
    """Probability, 0..1, of a sum as far from 0 as that of the differences if each sign were drawn by a fair coin.

    Exact, without drawing: the signs of the differences of one size give a binomial distribution, and the sum has the
    convolution of these. Differences of 0 say nothing; 1.0 where there is no other.
    """
    import numpy as np
    from scipy.signal import convolve
    from scipy.stats import binom

    found = np.array([each for each in differences if each], dtype=np.int64)
    if not len(found):
        return 1.0
    chances = np.ones(1)  # of the number of units with a positive sign
    for size, count in zip(*np.unique(np.abs(found), return_counts=True), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.maximum(convolve(chances, spread), 0.0)
    sums = 2 * np.arange(len(chances)) - np.abs(found).sum()
    return float(min(1.0, chances[np.abs(sums) >= abs(int(found.sum()))].sum()))


def compare(challenger: OnTestVideos, champion: OnTestVideos) -> Comparison:
    """Both on the same videos; HarError where the videos or the way they were tested differ.

    Films are those of the challenger's test_manifest.
    """
    both = f"Version {challenger.version} and the champion, version {champion.version},"
    if challenger.data_version != champion.data_version or challenger.right.keys() != champion.right.keys():
        shared = len(challenger.right.keys() & champion.right.keys())
        raise HarError(
            f"{both} were tested on different videos ({len(challenger.right)} and {len(champion.right)}, {shared} in "
            "common, or another version of the data), which cannot be compared: test both on the same split and data."
        )
    if challenger.protocol != champion.protocol:
        raise HarError(
            f"{both} were tested differently ({challenger.protocol} and {champion.protocol}): materialize "
            "test_predictions with the same options for both."
        )
    by_film: Counter[str] = Counter()
    for (clip, label), right in challenger.right.items():
        by_film[challenger.film[clip]] += int(right) - int(champion.right[clip, label])
    pairs = [(right, champion.right[video]) for video, right in challenger.right.items()]
    return Comparison(
        videos=len(pairs),
        challenger_right=sum(ours for ours, _ in pairs),
        champion_right=sum(theirs for _, theirs in pairs),
        only_challenger=sum(ours and not theirs for ours, theirs in pairs),
        only_champion=sum(theirs and not ours for ours, theirs in pairs),
        films=sum(difference != 0 for difference in by_film.values()),
        p_value=sign_flip_p_value(by_film.values()),
    )


def promote(
    uri: str, name: str, store: Store, *, version: str = "", alpha: float = ALPHA, log: Log = print
) -> Decision:
    """Make the challenger champion if it is better than the champion beyond noise; the first one becomes it at once.

    Args:
        uri: tracking address of MLflow.
        name: of the registered model.
        store: where test predictions are published.
        version: to promote; empty takes the one with the alias `challenger`.
        alpha: largest p-value that counts as more than noise, above 0 and below 1.
        log: takes a line while another promotion is waited for.

    Raises:
        HarError: there is nothing to promote or nothing to compare by, or the registry does not answer.
    """
    if not 0 < alpha < 1:
        raise HarError(f"alpha is {alpha}: choose a share above 0 and below 1, {ALPHA} for instance.")
    with _registry(uri, name, store, log) as (client, model, refuse_lost):
        wanted = version or model.aliases.get(CHALLENGER, "")
        if not wanted:
            raise HarError(
                f"{name} has no version with the alias {CHALLENGER}: materialize serving_model, or name one."
            )
        challenger = _version(client, model, wanted)
        current = _champion(model)
        if current is None:
            words = f"{name} version {challenger.version} is champion: it is the first."
            return _moved(client, model, challenger, words, refuse_lost)
        if current == str(challenger.version):
            return Decision(False, current, f"{name} version {current} is champion already: nothing was changed.")
        champion = _version(client, model, current)
        found = compare(tested_version(store, challenger), tested_version(store, champion))
        better = found.only_challenger > found.only_champion
        if better and found.p_value <= alpha:
            words = f"{name} version {challenger.version} is champion instead of version {current}: {found.words}."
            return _moved(client, model, challenger, words, refuse_lost, found)
        why = f"no more than noise at {alpha:g}" if better else "it is not better"
        return Decision(
            False,
            current,
            f"{name} version {challenger.version} was not promoted, as {why}; version {current} stays champion: "
            f"{found.words}.",
            found,
        )


def rollback(uri: str, name: str, store: Store, *, to: str = "", log: Log = print) -> Decision:
    """Give the alias `champion` back to the version that had it before, or to the one named.

    Raises:
        HarError: there is no such version, or the registry does not answer.
    """
    with _registry(uri, name, store, log) as (client, model, refuse_lost):
        current = model.aliases.get(CHAMPION, "")
        target = to
        if not target:
            if not current:
                _champion(model)  # says that it was deleted
                raise HarError(f"{name} has no champion yet: run `har promote`.")
            target = _version(client, model, current).tags.get(BEFORE_TAG, "")
            if not target:
                raise HarError(
                    f"{name} version {current} is the first champion, there is none before it: name a version to "
                    f"return to ({_versions(client, name)})."
                )
        chosen = _version(client, model, target)
        if str(chosen.version) == current:
            return Decision(False, current, f"{name} version {current} is champion already: nothing was changed.")
        _crown(client, name, chosen, refuse_lost)
        instead = f" instead of version {current}" if current else ""
        return Decision(True, str(chosen.version), f"{name} version {chosen.version} is champion again{instead}.")


def _moved(
    client: Any,
    model: Any,
    version: Any,
    words: str,
    refuse_lost: Callable[[], None],
    found: Comparison | None = None,
) -> Decision:
    current = model.aliases.get(CHAMPION)
    refuse_lost()
    if current:
        # First, so that there is a way back from whatever happens next.
        client.set_model_version_tag(model.name, version.version, BEFORE_TAG, str(current))
    _crown(client, model.name, version, refuse_lost)
    client.update_model_version(model.name, version.version, words)
    return Decision(True, str(version.version), words, found)


def _crown(client: Any, name: str, version: Any, refuse_lost: Callable[[], None]) -> None:
    refuse_lost()
    client.set_registered_model_alias(name, CHAMPION, version.version)
    refuse_lost()
    client.set_registered_model_tag(name, LAST_TAG, str(version.version))


@contextmanager
def _registry(uri: str, name: str, store: Store, log: Log) -> Iterator[tuple[Any, Any, Callable[[], None]]]:
    """Client, registered model and `refuse_lost` of `Store.alone`: one promotion or rollback at a time in a store."""
    if not uri:
        raise HarError("MLflow is off (its tracking_uri is empty), and with it the registry: set one.")
    with store.alone(log) as refuse_lost, registry_in_words(uri):
        from mlflow.exceptions import MlflowException

        client = client_of(uri)
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise HarError(
                f"There is no registered model {name}: materialize serving_model, `dagster asset materialize -m "
                "har_assets --select '+key:serving_model'`."
            ) from None
        current = model.aliases.get(CHAMPION)
        if current is not None and model.tags.get(LAST_TAG) != str(current):  # a kill came between the two
            client.set_registered_model_tag(name, LAST_TAG, str(current))
        yield client, model, refuse_lost


def _champion(model: Any) -> str | None:
    """Version of the champion, None where there never was one; HarError where it was deleted."""
    current = model.aliases.get(CHAMPION)
    last = model.tags.get(LAST_TAG)
    if current is None and last is not None:
        raise HarError(
            f"The champion, {model.name} version {last}, has been deleted or lost its alias: say which version serves "
            "instead, `har rollback --to VERSION`."
        )
    return str(current) if current is not None else None


def _version(client: Any, model: Any, number: str) -> Any:
    """A registered version; HarError names those that there are."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model.name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise HarError(
            f"{model.name} has no version {number} (any more): name one of {_versions(client, model.name)}."
        ) from None


def _versions(client: Any, name: str) -> str:
    return ", ".join(sorted((str(v.version) for v in client.search_model_versions(f"name = '{name}'")), key=int))
