"""From the checkpoint to what is deployed: the products of onnx_model and trt_engine.

Every conversion is compared with its parent on windows of the test videos before it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.export.gate import ROUNDED, gate_predictors, pass_gates
from har_assets.export.onnx import export_onnx, read_onnx, write_onnx
from har_assets.export.options import ConversionOptions, OnnxOptions, TrtEngineOptions
from har_assets.export.precision import check_precision, to_fp16, to_int8
from har_assets.export.tensorrt import build_engine, record_parity, write_reference
from har_assets.model.files import CARD, CHECKPOINT, ENGINE, ONNX, onnx_name, sidecar_path
from har_assets.model.networks import weights_licence
from har_assets.model.published import deployed_precision, parity_of, published_precisions, refuse_failed_parity
from har_assets.model.windows import windows_of
from har_assets.report.card import model_card, training_facts
from har_assets.runtime import open_model
from har_assets.runtime.checkpoint import CheckpointPredictor
from har_assets.runtime.onnx import OnnxPredictor
from har_assets.runtime.parity import Parity
from har_assets.runtime.predictor import Predictor
from har_assets.runtime.tensorrt import why_not_engine
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import Log

REFERENCE_CLIPS = 8
"""Clips that lie beside an engine, to compare it wherever it is first loaded."""

COMPARED_ROLES = ("test", "val", "train")
"""Roles in the order in which their videos are taken. A data set may have no test video that can be decoded; its
model is to be deployed all the same."""


def build_onnx(build: Build, options: OnnxOptions, log: Log) -> Product:
    """The product of onnx_model: an ONNX file a precision, and the model card.

    Args:
        build: inputs trained_checkpoint, frame_cache and the manifests.
        options: precisions, their gates and how int8 is calibrated.
        log: takes a line a step.

    Raises:
        ParityError: a precision does not hold its gate.
        HarError: an option is impossible, or no video was decoded.
    """
    precisions = options.precisions()
    options.check_conversions(precisions)
    files = {name: ONNX if name == options.precision else onnx_name(name) for name in precisions}
    checkpoint = build.inputs["trained_checkpoint"].file(CHECKPOINT)
    fp32 = export_onnx(checkpoint, build.folder / files["fp32"])
    notes: list[str] = []
    for name in precisions[1:]:
        notes += convert(fp32, build.folder / files[name], name, options, build.inputs)

    parent = CheckpointPredictor(checkpoint, device="cpu")
    children: dict[str, Predictor] = {}
    for name in precisions:
        children |= gate_predictors(build.folder / files[name], name, fp32)
    parities, where = compare_with_parent(parent, children, options, build.inputs, log)
    parity, child = parities[options.precision], children[options.precision]
    build.run.metrics({"onnx_max_difference": parity.max_difference, "onnx_top1_agreement": parity.top1_agreement})
    build.run.file(build.folder / ONNX)
    _write_card(build, parent, options.precision, parity)
    figures = parity.to_dict()
    rows = [{"precision": name, "file": files[name], **parities[name].to_dict()} for name in precisions]
    if ROUNDED in parities:
        notes.append(f"fp16 with every result rounded, as on a GPU: {parities[ROUNDED].words}")
    return Product(
        headline=f"{options.precision}, parity on {parity.clips:,} windows: max |difference| "
        f"{parity.max_difference:.1e}, same top-1 {parity.top1_agreement:.1%}",
        metadata={
            "precision": options.precision,
            "parity": figures,
            "precisions": rows,
            "compared": f"{parent.runtime} and {child.runtime} on {where}",
            "notes": notes,
        },
        checks={"parity_with_checkpoint": {**figures, "precisions": rows}},
        clips=parity.clips,
    )


def convert(
    source: Path, target: Path, precision: str, options: ConversionOptions, inputs: Mapping[str, Artifact]
) -> list[str]:
    """Write a float32 ONNX file in another precision, fp16 or int8; returns what is to be said about it."""
    proto, spec, provenance = read_onnx(source)
    if precision == "fp16":
        write_onnx(to_fp16(proto), spec, provenance, target)
        return []
    windows, role = windows_of(("val", "train"), inputs, spec, options.calibration_windows)
    quantised = to_int8(proto, (clips_BCTHW for clips_BCTHW, _ in windows.batches()), options.calibrator())
    write_onnx(quantised, spec, provenance, target)
    missing = "" if role == "val" else ", as no validation video was decoded"
    return [f"int8 was calibrated on {len(windows):,} windows of the {role} videos{missing}"]


def compare_with_parent(
    parent: Predictor,
    children: Mapping[str, Predictor],
    options: ConversionOptions,
    inputs: Mapping[str, Artifact],
    log: Log,
) -> tuple[dict[str, Parity], str]:
    """Parity of each child with the parent on windows of the test videos, and on which windows that is, in words.

    ParityError when a gate does not hold.
    """
    windows, role = windows_of(COMPARED_ROLES, inputs, parent.spec, options.parity_windows)
    where = f"{len(windows):,} windows of the {role} videos"
    log(f"Comparing {', '.join(children)} on {where}.")
    return pass_gates(parent, children, windows, options.limits, log), where


def _write_card(build: Build, parent: Predictor, precision: str, parity: Parity) -> None:
    """The model card beside the ONNX file."""
    checkpoint = build.inputs["trained_checkpoint"].record
    card = model_card(
        parent.spec,
        parent.provenance,
        file=ONNX,
        weights_licence=weights_licence(parent.spec.network),
        facts=[
            *training_facts(checkpoint.metadata, checkpoint.config),
            ("ONNX file", f"{precision}; against the checkpoint: {parity.words}"),
        ],
    )
    (build.folder / CARD).write_text(card, encoding="utf-8")


def build_trt_engine(build: Build, options: TrtEngineOptions, *, timing_caches: Path | None, log: Log) -> Product:
    """The product of trt_engine: an engine, its sidecar, and a few clips with their scores.

    Args:
        build: inputs onnx_model, frame_cache and the manifests.
        options: of builder and gate.
        timing_caches: as `build_engine` takes it.
        log: takes a line a step.

    Raises:
        ParityError: the engine, or the ONNX file that it was built from, does not hold its gate.
        HarError: an option is impossible, no video was decoded, or the builder refuses.
    """
    options.check()
    source, source_parity, notes = onnx_for_engine(build, options, log)
    path = build.folder / ENGINE
    engine = build_engine(source, path, options, timing_caches=timing_caches)
    parity = compare_engine(path, source, engine, options, build.inputs, log)
    build.run.file(path)
    build.run.file(sidecar_path(path))
    return Product(
        headline=f"{engine['builder']} {engine['builder_version']}, {engine['precision']}, "
        f"{engine['engine_bytes'] / 1e3:.0f} kB, for SM {', '.join(engine['compute_capabilities'])}",
        metadata={
            **{name: value for name, value in engine.items() if name not in ("spec", "provenance", "log")},
            "onnx": source.name,
            "onnx_parity": source_parity,
            "parity": parity if parity["measured"] else f"not measured: {parity['reason']}",
            "notes": notes,
            "build_log": engine["log"],
        },
        # Not measured is no failure: a warning until it is compared on a GPU.
        checks={"parity_with_onnx": {"passed": False, "warning": not parity["measured"], **parity}},
    )


def onnx_for_engine(build: Build, options: TrtEngineOptions, log: Log) -> tuple[Path, dict[str, Any], list[str]]:
    """The ONNX file that an engine is built from, its parity, and notes.

    That is the one of onnx_model, or one made from its float32 model into the engine's own folder.
    HarError when its parity is not what was asked for.
    """
    onnx = build.inputs["onnx_model"]
    precision = check_precision(options.precision or deployed_precision(onnx))
    options.check_conversions([precision])
    published = published_precisions(onnx)
    if precision in published:
        refuse_failed_parity(onnx, precision)
        return onnx.file(published[precision]["file"]), parity_of(onnx, precision), []
    refuse_failed_parity(onnx, "fp32")
    fp32 = onnx.file(published["fp32"]["file"])
    target = build.folder / onnx_name(precision)
    notes = convert(fp32, target, precision, options, build.inputs)
    parent, children = OnnxPredictor(fp32, provider="CPU"), gate_predictors(target, precision, fp32)
    parities, where = compare_with_parent(parent, children, options, build.inputs, log)
    notes += [f"{name} from {fp32.name} of onnx_model on {where}: {parity.words}" for name, parity in parities.items()]
    return target, parities[precision].to_dict(), notes


def compare_engine(
    path: Path,
    source: Path,
    engine: dict[str, Any],
    options: ConversionOptions,
    inputs: Mapping[str, Artifact],
    log: Log,
) -> dict[str, Any]:
    """Compare an engine with its ONNX file and write that into its sidecar: `measured`, the figures, or the `reason`.

    `engine` is the content of the sidecar. Beside the engine a few clips and the scores of the ONNX file are left.
    ParityError when a gate does not hold.
    """
    parent = OnnxPredictor(source, provider="CPU")
    windows, _ = windows_of(COMPARED_ROLES, inputs, parent.spec, REFERENCE_CLIPS)
    clips_BCTHW = np.concatenate([batch_BCTHW for batch_BCTHW, _ in windows.batches()])
    write_reference(path, clips_BCTHW, parent.predict(clips_BCTHW))
    precision = engine["precision"]
    limits = options.limits(precision)
    waits = why_not_engine(engine)
    parity: dict[str, Any] = {
        "measured": False,
        "reason": waits or "it has not been loaded yet",
        "max_difference_allowed": limits.max_difference,
        "top1_agreement_required": limits.top1_agreement,
    }
    record_parity(path, parity)
    if waits:
        return parity
    child = open_model(path)
    parities, where = compare_with_parent(parent, {precision: child}, options, inputs, log)
    parity = {
        "measured": True,
        **parities[precision].to_dict(),
        "compared": f"{parent.runtime} and {child.runtime} on {where}",
    }
    record_parity(path, parity)
    return parity
