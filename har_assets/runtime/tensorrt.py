"""Engines of TensorRT and TensorRT-RTX.

Memory of the GPU and streams are those of PyTorch. The JSON beside an engine says what it runs on; all of that
is checked before the library sees the bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.errors import ModelFileError
from har_assets.model.describe import described_in
from har_assets.model.files import parity_path, reference_path, sidecar_path
from har_assets.model.integrity import verify_engine
from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.runtime.tensorrt_log import TensorRTLog
from har_assets.system.files import write_text_whole
from har_assets.system.gpu import gpu_compute_capability
from har_assets.video.sampling import Clips

BUILDERS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Name of the runtime, which is that of its Python module -> name for people."""

_LOG = logging.getLogger(__name__)


class EnginePredictor(Predictor):
    """An engine that trt_engine published, on a GPU that it was built for.

    At its first load on a GPU its scores are compared with those of the ONNX file that it was built from
    (`<engine>.reference.npz`), under the gates in its JSON. The result is written to `<engine>.parity.json`.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        """`name`, if given, is the builder that the engine is expected to be of.

        Raises:
            ModelFileError: the engine or its JSON is damaged, or this machine is not what it was built for, or
                its scores differ from the ONNX file's.
        """
        content, fields = verify_engine(path)
        reason = why_not_engine(fields, name)
        if reason:
            raise ModelFileError(f"{path} cannot run here, as {reason}.")
        spec, provenance = described_in(fields, path)
        try:
            batch = fields["batch"]
            self.min_batch, self.max_batch = int(batch["min"]), int(batch["max"])
            self.input_name = str(fields["input"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{sidecar_path(path)} is not of this har_assets ({error!r}): materialize trt_engine again."
            ) from None
        super().__init__(spec, provenance)

        import torch

        self.name = fields["builder"]
        trt: Any = importlib.import_module(self.name)
        self.runtime = f"{BUILDERS[self.name]} {trt.__version__} {torch.cuda.get_device_name(0)} {fields['precision']}"
        log = TensorRTLog(trt, _warn)
        # Held as long as the engine lives, which the library asks for.
        self._log = log
        self._runtime = trt.Runtime(log.logger)
        if fields.get("version_compatible"):
            # Such an engine carries the small runtime that executes it.
            self._runtime.engine_host_code_allowed = True
        engine = self._runtime.deserialize_cuda_engine(content)
        context = engine.create_execution_context() if engine is not None else None
        if context is None:
            raise ModelFileError(
                f"{BUILDERS[self.name]} {trt.__version__} refuses {path} ({log.first_error or 'no reason given'}): "
                "materialize trt_engine again on this machine."
            )
        outputs = [
            tensor
            for tensor in map(engine.get_tensor_name, range(engine.num_io_tensors))
            if engine.get_tensor_mode(tensor) == trt.TensorIOMode.OUTPUT
        ]
        types = [engine.get_tensor_dtype(tensor) for tensor in (self.input_name, *outputs)]
        if types != [trt.DataType.UINT8, trt.DataType.FLOAT]:
            raise ModelFileError(f"{path} does not take uint8 clips and give float32 scores: materialize trt_engine.")
        self.output_name = outputs[0]
        self._engine, self._context = engine, context
        # Not the default stream: TensorRT would synchronise the whole device around each call.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._compare_with_parent(path, fields)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        import torch

        count = len(clips_BCTHW)
        batch = max(count, self.min_batch)
        with torch.cuda.stream(self._stream):
            clips = torch.from_numpy(clips_BCTHW).to("cuda")
            if batch > count:
                clips = torch.cat([clips, clips.new_zeros((batch - count, *clips.shape[1:]))])
            scores_BK = torch.empty((batch, self.spec.num_classes), dtype=torch.float32, device="cuda")
            started = (
                self._context.set_input_shape(self.input_name, tuple(clips.shape))
                and self._context.set_tensor_address(self.input_name, clips.data_ptr())
                and self._context.set_tensor_address(self.output_name, scores_BK.data_ptr())
                and self._context.execute_async_v3(self._stream.cuda_stream)
            )
            if not started:
                raise ModelFileError(
                    f"The engine could not run a batch of {batch} ({self._log.first_error or 'no reason given'}): "
                    "free memory of the GPU or materialize trt_engine with a smaller max_batch."
                )
            found_BK: Scores = scores_BK[:count].cpu().numpy()  # waits for the stream
        return found_BK

    def _compare_with_parent(self, path: Path, fields: dict[str, Any]) -> None:
        """Raise ParityError when the scores of the reference clips differ by more than the JSON allows."""
        gates = fields.get("parity")
        if not isinstance(gates, dict) or gates.get("measured"):
            return
        record = parity_path(path)
        identity = {"engine_sha256": fields["engine_sha256"], "runtime": self.runtime}
        if _passed_before(record, identity):
            return
        from har_assets.runtime.parity import compare

        clips_BCTHW, parent_BK = _read_reference(reference_path(path))
        parity = compare(
            parent_BK,
            self.predict(clips_BCTHW),
            max_difference=float(gates["max_difference_allowed"]),
            top1_agreement=float(gates["top1_agreement_required"]),
        )
        found = {**identity, **parity.to_dict()}
        try:
            write_text_whole(record, json.dumps(found, indent=2) + "\n")
        except OSError as error:
            _LOG.warning("%s cannot be written (%s); parity of the engine: %s", record, error.strerror, found)
        if not parity.passed:
            raise ModelFileError(
                f"{path} gives other scores than its ONNX file on {self.runtime}: max |difference| "
                f"{parity.max_difference:.2g} (allowed {parity.max_difference_allowed:.2g}), same top-1 on "
                f"{parity.top1_agreement:.1%} (required {parity.top1_agreement_required:.1%}); run the ONNX file "
                "instead, or materialize trt_engine in a higher precision."
            )


def why_not_engine(fields: dict[str, Any], name: str | None = None) -> str:
    """Why an engine with that JSON cannot run here in runtime `name`, a clause with the remedy; empty where it can."""
    builder = str(fields.get("builder"))
    if builder not in BUILDERS:
        return f"it was built by {builder}, which is not known: materialize trt_engine again"
    if name is not None and name != builder:
        return f"it was built by {BUILDERS[builder]}: choose the runtime {builder}"
    targets = fields.get("compute_capabilities")
    known = [str(target) for target in targets] if isinstance(targets, list) else []
    reason = _why_not_gpu(known, str(fields.get("hardware_compatibility") or ""))
    if reason:
        return reason
    return _why_not_installed(builder, str(fields.get("builder_version")), bool(fields.get("version_compatible")))


def _why_not_installed(builder: str, made_by: str, version_compatible: bool) -> str:
    if importlib.util.find_spec(builder) is None:
        package = "tensorrt-rtx-cu13" if builder == "tensorrt_rtx" else "har_assets[tensorrt]"
        return f"{BUILDERS[builder]} is not installed: `pip install '{package}'`"
    import torch

    if not torch.cuda.is_available():
        return "the installed PyTorch, whose GPU memory it uses, has no CUDA: install a CUDA build of it"
    here = str(importlib.import_module(builder).__version__)
    if here != made_by and not (version_compatible and _later_of_same_major(here, made_by)):
        return (
            f"it was built by {BUILDERS[builder]} {made_by} and {here} is installed: materialize trt_engine again, or "
            f"install {made_by}"
        )
    return ""


def _why_not_gpu(targets: list[str], hardware_compatibility: str) -> str:
    capability = gpu_compute_capability()
    wanted = f"it is for GPUs of compute capability {', '.join(targets)}"
    if hardware_compatibility == "ampere_plus":
        wanted = "it is for GPUs from compute capability 8.0 on"
    if capability is None:
        return f"{wanted} and there is no CUDA GPU on this machine: run the ONNX file instead"
    here = ".".join(map(str, capability))
    fits = capability >= (8, 0) if hardware_compatibility == "ampere_plus" else here in targets
    return "" if fits else f"{wanted} and this machine's has {here}: materialize trt_engine for it"


def _later_of_same_major(here: str, made: str) -> bool:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".") if part.isdigit()]

    return numbers(here)[:1] == numbers(made)[:1] and numbers(here) >= numbers(made)


def _passed_before(record: Path, identity: dict[str, Any]) -> bool:
    try:
        known = json.loads(record.read_text())
        return known["passed"] is True and all(known[name] == value for name, value in identity.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_reference(path: Path) -> tuple[Clips, Scores]:
    if not path.is_file():
        raise ModelFileError(
            f"{path} is missing, with which the engine is compared at its first load on a GPU: copy it along."
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["clips_BCTHW"], arrays["scores_BK"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path} is damaged ({error}): materialize trt_engine again.") from None


def _warn(severity: str, message: str) -> None:
    if severity == "WARNING":
        _LOG.warning("%s", message)


def _fields(engine: Path) -> Any:
    """The JSON beside an engine, not verified; None where it cannot be read."""
    try:
        return json.loads(sidecar_path(engine).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _row(name: str) -> Runtime:
    def why_not(path: Path) -> str:
        fields = _fields(path)
        if fields is None:
            return f"{sidecar_path(path).name} beside it cannot be read: copy it along or materialize trt_engine"
        return why_not_engine(fields, name) if isinstance(fields, dict) else "the JSON beside it is not of trt_engine"

    def made_for(path: Path) -> bool:
        fields = _fields(path)
        return isinstance(fields, dict) and fields.get("builder") == name

    return Runtime(name, ".engine", why_not, lambda path, threads: EnginePredictor(path, name=name), made_for=made_for)


TENSORRT, TENSORRT_RTX = _row("tensorrt"), _row("tensorrt_rtx")
