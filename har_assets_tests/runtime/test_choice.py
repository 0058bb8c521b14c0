import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import HarError, ModelFileError
from har_assets.model.files import KINDS
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import RUNTIMES, Predictor, available_runtimes, choice, open_model, read_spec
from har_assets.runtime.predictor import Runtime, Scores
from har_assets.system.gpu import gpu_compute_capability
from har_assets.video.sampling import Clips

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install 'har_assets[openvino]'"
)


def some_clips(spec: ModelSpec, count: int) -> Clips:
    return np.random.default_rng(1).integers(0, 256, (count, *spec.clip_shape_CTHW), np.uint8)


@pytest.mark.parametrize("runtime", ["onnxruntime_cpu", "openvino", "openvino_bf16"])
def test_every_cpu_runtime_gives_the_scores_of_the_checkpoint(
    tiny_checkpoint: Path, tiny_onnx: Path, runtime: str
) -> None:
    reasons = {found.name: found.reason for found in available_runtimes(tiny_onnx)}
    if reasons[runtime]:
        pytest.skip(reasons[runtime])
    parent, child = open_model(tiny_checkpoint, "pytorch"), open_model(tiny_onnx, runtime)
    assert child.name == runtime
    for batch in (0, 1, 3, 33):
        clips_BCTHW = some_clips(parent.spec, batch)
        scores_BK = child.predict(clips_BCTHW)
        assert (scores_BK.shape, scores_BK.dtype) == ((batch, 3), np.float32)
        tolerance = 0.01 if runtime == "openvino_bf16" else 1e-5
        np.testing.assert_allclose(scores_BK, parent.predict(clips_BCTHW), atol=tolerance)


@needs_openvino
def test_scores_are_not_written_over_by_the_next_call(tiny_onnx: Path) -> None:
    predictor = open_model(tiny_onnx, "openvino")
    clips_BCTHW = some_clips(predictor.spec, 2)
    first_BK = predictor.predict(clips_BCTHW)
    kept_BK = first_BK.copy()
    predictor.predict(255 - clips_BCTHW)
    np.testing.assert_array_equal(first_BK, kept_BK)


def test_auto_says_what_it_took_and_why(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    predictor = open_model(tiny_onnx)
    runnable = [found.name for found in available_runtimes(tiny_onnx) if found.available]
    assert predictor.name in runnable
    if len(runnable) > 1:
        assert predictor.why.startswith("the fastest here, measured on 4 clips: ")
        assert all(f"{name} " in predictor.why for name in runnable)
    if gpu_compute_capability() is None:
        assert open_model(tiny_checkpoint).why == "the only one that works here for this checkpoint"
    assert open_model(tiny_onnx, "onnxruntime_cpu").why == "as asked"


def test_each_runtime_that_cannot_run_a_file_has_its_reason(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    for model in (tiny_checkpoint, tiny_onnx):
        found = available_runtimes(model)
        assert {row.name for row in found} == set(RUNTIMES)
        assert all(row.available != bool(row.reason) for row in found)
        available = [row.available for row in found]
        assert available == sorted(available, reverse=True)
    reasons = {row.name: row.reason for row in available_runtimes(tiny_onnx)}
    assert reasons["pytorch"] == "it runs .ckpt files"
    if gpu_compute_capability() is None:
        assert "no CUDA GPU" in reasons["onnxruntime_cuda"]


def test_a_runtime_that_cannot_run_is_refused_in_a_sentence(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    with pytest.raises(ModelFileError, match=r"pytorch runs \.ckpt files .* choose onnxruntime_cuda or"):
        open_model(tiny_onnx, "pytorch")
    with pytest.raises(HarError, match="no runtime 'abacus': choose auto"):
        open_model(tiny_onnx, "abacus")
    if gpu_compute_capability() is None:
        for model, runtime in ((tiny_onnx, "onnxruntime_cuda"), (tiny_checkpoint, "pytorch_compiled")):
            with pytest.raises(ModelFileError, match=f"cannot run in {runtime}, as there is no CUDA GPU"):
                open_model(model, runtime)
        found = open_model(tiny_onnx, "onnxruntime")
        assert (found.name, found.why) == ("onnxruntime_cpu", "there is no CUDA GPU on this machine")
    with pytest.raises(ModelFileError, match=r"onnxruntime runs \.onnx files .* choose pytorch_compiled or pytorch"):
        open_model(tiny_checkpoint, "onnxruntime")


def test_wrong_files_are_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="name one that ends in"):
        available_runtimes(tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="There is no engine"):
        open_model(tmp_path / "none.engine")
    disguised = Path(shutil.copy(tiny_onnx, tmp_path / "model.ckpt"))
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        open_model(disguised)


def test_the_spec_is_read_without_a_runtime(tiny_checkpoint: Path, tiny_onnx: Path, tiny_spec: ModelSpec) -> None:
    assert read_spec(tiny_checkpoint) == read_spec(tiny_onnx) == tiny_spec


class Fixed(Predictor):
    """Takes a given time and gives given scores."""

    def __init__(self, spec: ModelSpec, seconds: float, score: float) -> None:
        super().__init__(spec, Provenance())
        self.name = self.runtime = "fixed"
        self.seconds, self.score, self.asked = seconds, score, 0

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        import time

        time.sleep(self.seconds)
        self.asked += len(clips_BCTHW)
        return np.full((len(clips_BCTHW), self.spec.num_classes), self.score, np.float32)


def chosen(monkeypatch: pytest.MonkeyPatch, runtimes: dict[str, Fixed], path: Path) -> Predictor:
    """What `auto` takes where there are no other runtimes than these; the exact one is onnxruntime_cpu."""
    rows = {
        name: Runtime(
            name, ".onnx", lambda path: "", lambda path, threads, found=found: found, exact=name == "onnxruntime_cpu"
        )
        for name, found in runtimes.items()
    }
    monkeypatch.setattr(choice, "RUNTIMES", rows)
    return open_model(path)


def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch, tiny_spec: ModelSpec, tiny_onnx: Path) -> None:
    slow, fast = Fixed(tiny_spec, 0.01, 0.3), Fixed(tiny_spec, 0.0, 0.3)
    assert chosen(monkeypatch, {"openvino": slow, "onnxruntime_cpu": fast}, tiny_onnx) is fast
    assert chosen(monkeypatch, {"openvino": fast, "onnxruntime_cpu": slow}, tiny_onnx) is fast


def test_auto_leaves_out_a_fast_one_with_other_scores(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: ModelSpec, tiny_onnx: Path
) -> None:
    wrong, right = Fixed(tiny_spec, 0.0, 0.4), Fixed(tiny_spec, 0.005, 0.3)
    found = chosen(monkeypatch, {"openvino_bf16": wrong, "onnxruntime_cpu": right}, tiny_onnx)
    assert found is right
    assert "but scores off by 0.1" in found.why


def test_the_exact_runtime_is_the_measure_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: ModelSpec, tiny_onnx: Path
) -> None:
    wrong, right = Fixed(tiny_spec, 0.0, 0.4), Fixed(tiny_spec, 0.005, 0.3)
    assert chosen(monkeypatch, {"onnxruntime_cpu": right, "openvino_bf16": wrong}, tiny_onnx) is right


def test_a_runtime_that_fails_is_named_beside_the_one_that_works(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: ModelSpec, tiny_onnx: Path
) -> None:
    def fail(path: Path, threads: int) -> Predictor:
        raise ModelFileError("it has no such layer.")

    plain = Fixed(tiny_spec, 0.0, 0.3)
    rows = [
        Runtime("quick", ".onnx", lambda path: "", fail),
        Runtime("plain", ".onnx", lambda path: "", lambda path, threads: plain, exact=True),
    ]
    monkeypatch.setattr(choice, "RUNTIMES", {row.name: row for row in rows})
    assert open_model(tiny_onnx) is plain
    assert plain.why == "the only one that works here for this ONNX file; quick failed: it has no such layer."
    # The plainest is the one that is believed about the file.
    monkeypatch.setattr(choice, "RUNTIMES", {row.name: row for row in reversed(rows)})
    with pytest.raises(ModelFileError, match="no such layer"):
        open_model(tiny_onnx)


def test_runtimes_and_kinds_of_file_fit_together() -> None:
    assert {runtime.suffix for runtime in RUNTIMES.values()} == KINDS.keys()
    assert all(name == runtime.name for name, runtime in RUNTIMES.items())
    # Scores of others are compared with its: of each kind that is measured there has to be one.
    measured = {suffix for suffix, kind in KINDS.items() if kind.measured and suffix != ".engine"}
    assert measured <= {runtime.suffix for runtime in RUNTIMES.values() if runtime.exact}


def test_a_slow_network_is_asked_once(monkeypatch: pytest.MonkeyPatch, tiny_spec: ModelSpec, tiny_onnx: Path) -> None:
    monkeypatch.setattr(choice, "PROBE_SECONDS", 0.01)
    slow, fast = Fixed(tiny_spec, 0.02, 0.3), Fixed(tiny_spec, 0.0, 0.3)
    chosen(monkeypatch, {"openvino": fast, "onnxruntime_cpu": slow}, tiny_onnx)
    assert (slow.asked, fast.asked) == (1, 1)


def test_the_compiled_path_gives_the_scores_of_the_checkpoint(tiny_checkpoint: Path) -> None:
    from har_assets.runtime.checkpoint import CompiledPredictor

    parent = open_model(tiny_checkpoint, "pytorch")
    # Without the compiler, which the CPU does not gain from: padding, float16 and layout are the same.
    child = CompiledPredictor(tiny_checkpoint, device="cpu", compiled=False)
    assert child.why == "not compiled, as asked"
    for batch in (1, 3, 9, 70):
        clips_BCTHW = some_clips(parent.spec, batch)
        np.testing.assert_allclose(child.predict(clips_BCTHW), parent.predict(clips_BCTHW), atol=2e-3)


def test_without_a_compiler_it_runs_uncompiled_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from har_assets.runtime.checkpoint import CompiledPredictor

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    child = CompiledPredictor(tiny_checkpoint, device="cpu")
    assert "not compiled, as " in child.why
    assert child.predict(some_clips(child.spec, 2)).shape == (2, 3)


@pytest.mark.slow
def test_the_compiled_path_compiles(tiny_checkpoint: Path) -> None:
    from har_assets.runtime.checkpoint import CompiledPredictor, no_compiler

    if no_compiler():
        pytest.skip(no_compiler())
    child = CompiledPredictor(tiny_checkpoint, device="cpu")
    assert child.runtime.endswith("fp16 compiled")
    parent = open_model(tiny_checkpoint, "pytorch")
    clips_BCTHW = some_clips(parent.spec, 3)
    np.testing.assert_allclose(child.predict(clips_BCTHW), parent.predict(clips_BCTHW), atol=2e-3)
