"""A new kind of model file, with two runtimes, is a row a table: everything that reads files knows it then."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from har_assets.cli.bench import latest_models
from har_assets.cli.card import card
from har_assets.cli.predict import latest_model
from har_assets.errors import MissingArtifactError, ModelFileError
from har_assets.model.files import KINDS, ONNX
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import RUNTIMES, available_runtimes, open_model, read_spec
from har_assets.store.folder import ArtifactFolder
from har_assets.video.sampling import Clips
from har_assets_tests.published import publish
from har_assets_tests.runtime import abacus
from har_assets_tests.runtime.damage import run_trials


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    kinds, runtimes = dict(KINDS), dict(RUNTIMES)
    abacus.register()
    yield
    tables: tuple[tuple[dict, dict], ...] = ((KINDS, kinds), (RUNTIMES, runtimes))
    for table, before in tables:
        table.clear()
        table.update(before)


@pytest.fixture
def model(tiny_spec: ModelSpec, tmp_path: Path) -> Path:
    return abacus.write(tmp_path / "sound.abacus", tiny_spec, Provenance(dataset="tiny"))


def some_clips(spec: ModelSpec) -> Clips:
    return np.random.default_rng(1).integers(0, 256, (5, *spec.clip_shape_CTHW), np.uint8)


def test_its_runtimes_run_it(model: Path, tiny_spec: ModelSpec) -> None:
    found = available_runtimes(model)
    assert [row.name for row in found if row.available] == ["beads", "fingers"]
    assert {row.reason for row in found if row.name == "pytorch"} == {"it runs .ckpt files"}
    clips_BCTHW = some_clips(tiny_spec)
    exact_BK = open_model(model, "fingers").predict(clips_BCTHW)
    assert exact_BK.shape == (5, 3)
    np.testing.assert_allclose(open_model(model, "beads").predict(clips_BCTHW), exact_BK + 0.001, atol=1e-6)
    with pytest.raises(ModelFileError, match=r"runs \.onnx files and .* is none: choose beads or fingers"):
        open_model(model, "openvino")
    assert read_spec(model) == tiny_spec


def test_auto_measures_them_and_compares_with_the_exact_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = open_model(model)
    assert predictor.name == "beads"
    assert predictor.why.startswith("the fastest here, measured on 4 clips: beads ")
    assert predictor.why.endswith("its scores are within 0.001 of float32's")
    monkeypatch.setitem(RUNTIMES, "beads", abacus.runtime("beads", error=0.1))
    predictor = open_model(model)
    assert predictor.name == "fingers"
    assert "beads" in predictor.why
    assert "but scores off by 0.1" in predictor.why


def test_auto_takes_the_first_where_the_kind_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, abacus.SUFFIX, dataclasses.replace(abacus.KIND, measured=False))
    predictor = open_model(model)
    assert (predictor.name, predictor.why) == ("beads", "the first in the order of speed: beads, fingers")
    busy = dataclasses.replace(abacus.BEADS, why_not=lambda path: "its beads are being cleaned: choose fingers")
    monkeypatch.setitem(RUNTIMES, "beads", busy)
    predictor = open_model(model)
    assert (predictor.name, predictor.why) == ("fingers", "the only one that works here for this abacus")


def test_one_that_nothing_runs_here_is_refused_with_every_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, reason in (("beads", "there are no beads"), ("fingers", "there are no fingers")):
        row = dataclasses.replace(RUNTIMES[name], why_not=lambda path, reason=reason: reason)
        monkeypatch.setitem(RUNTIMES, name, row)
    with pytest.raises(ModelFileError, match="cannot run here, as there are no beads; there are no fingers"):
        open_model(model)
    model.write_bytes(model.read_bytes()[:-1])
    for runtime in ("auto", "beads"):
        with pytest.raises(ModelFileError, match="is damaged"):
            open_model(model, runtime)


def test_files_that_are_missing_or_unknown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"There is no abacus .*: materialize counted_model or name another"):
        open_model(tmp_path / "none.abacus")
    with pytest.raises(ModelFileError, match=r"no model file: name one that ends in .*\.abacus"):
        open_model(tmp_path / "none.pt2")


def test_a_runtime_of_a_suffix_without_a_kind_is_no_key_error(tmp_path: Path) -> None:
    RUNTIMES["lonely"] = dataclasses.replace(abacus.BEADS, name="lonely", suffix=".pt2")
    for runtime in ("auto", "lonely"):
        with pytest.raises(ModelFileError, match=r"none\.pt2 is no model file: name one"):
            open_model(tmp_path / "none.pt2", runtime)


def test_commands_find_the_published_one(model: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path / "artifacts")
    publish(store, "onnx_model", {ONNX: tiny_onnx})
    with pytest.raises(MissingArtifactError, match="counted_model has not been materialized"):
        latest_model(str(store.root), "beads")
    publish(store, abacus.KIND.asset, {abacus.KIND.file: model})
    assert [path.name for path in latest_models(str(store.root))] == [ONNX, "video_action_model.abacus"]
    assert latest_model(str(store.root), "beads").name == "video_action_model.abacus"
    assert latest_model(str(store.root), "auto").name == ONNX


def test_its_card_is_printed(model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    card(model)
    printed = capsysbinary.readouterr().out.decode()
    assert "`sound.abacus` says which of 3 actions" in printed


def test_damaged_ones_are_tried_like_all_others(model: Path) -> None:
    reports = list(run_trials(model.parent, 14, 0))
    assert [report["runtime"] for report in reports] == ["beads", "fingers"] * 14
    assert {report["target"] for report in reports} == {"sound.abacus"}
    assert all(report["outcome"].startswith("refused: ") for report in reports)
