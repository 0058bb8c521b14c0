"""From the checkpoint to what is deployed: onnx_model, trt_engine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from har_assets.cluster.needs import needs
from har_assets.dataset.manifests import read_manifest_of
from har_assets.errors import HarError
from har_assets.graph.assets.training import CARD, CHECKPOINT
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import AssetConfig, made, publish, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.model.spec import ModelSpec
from har_assets.runtime.parity import DEFAULT_LIMITS, Limits
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact

if TYPE_CHECKING:
    from har_assets.export.precision import Calibration
    from har_assets.export.windows import Windows
    from har_assets.runtime.parity import Parity
    from har_assets.runtime.predictor import Predictor

ONNX = "video_action_model.onnx"
ENGINE = "video_action_model.engine"

DATA = ("frame_cache", "test_manifest", "val_manifest", "train_manifest")
"""What conversions are compared and calibrated on."""

REFERENCE_CLIPS = 8
"""Clips that travel with an engine, to compare it wherever it is first loaded."""


def onnx_name(precision: str) -> str:
    """`video_action_model.int8.onnx`: a precision beside the deployed one, which is `video_action_model.onnx`."""
    return f"video_action_model.{precision}.onnx"


class ConversionConfig(AssetConfig):
    """How a conversion is compared with its parent, and int8 calibrated."""

    parity_windows: int = 512
    """Windows of the test videos on which parent and child are compared, evenly spread over all of them; 0 takes
    every window. Slow networks: a window costs one inference of each model on the CPU."""
    max_difference: dict[str, float] = {name: limits.max_difference for name, limits in DEFAULT_LIMITS.items()}
    """Precision to the largest |difference| of any score that is published; others keep their default."""
    top1_agreement: dict[str, float] = {name: limits.top1_agreement for name, limits in DEFAULT_LIMITS.items()}
    """Precision to the smallest share of windows with the same top-1 that is published."""
    calibration: str = "percentile"
    """How int8 finds the range of each activation: `percentile` or `entropy`."""
    calibration_percentile: float = 99.99
    """Share of activations, in per cent, that the range holds (`percentile`)."""
    calibration_windows: int = 128
    """Windows of the validation videos that int8 is calibrated on; 0 takes every one."""

    def limits(self, precision: str) -> Limits:
        """The gate of a precision; HarError when the configuration names one that does not exist."""
        from har_assets.export.precision import check_precision

        for name in (precision, *self.max_difference, *self.top1_agreement):
            check_precision(name)
        default = DEFAULT_LIMITS[precision]
        return Limits(
            self.max_difference.get(precision, default.max_difference),
            self.top1_agreement.get(precision, default.top1_agreement),
        )

    def check(self, precisions: list[str]) -> None:
        """HarError when a setting is impossible, before any work is done."""
        for precision in precisions:
            self.limits(precision)
        self.calibrator()
        if self.parity_windows < 0 or self.calibration_windows < 0:
            raise HarError(
                f"parity_windows is {self.parity_windows} and calibration_windows {self.calibration_windows}: choose "
                "1 or more, or 0 for every window."
            )

    def calibrator(self) -> "Calibration":
        """The settings of int8; HarError for impossible ones."""
        from har_assets.export.precision import Calibration

        return Calibration(self.calibration, self.calibration_percentile)


class OnnxConfig(ConversionConfig):
    """Export and its gate."""

    precision: str = "fp32"
    """Precision of video_action_model.onnx, which is deployed: fp32, fp16 or int8. Where it is not fp32, the fp32
    model is published beside it as video_action_model.fp32.onnx."""
    also: list[str] = []
    """Further precisions to publish beside it, as video_action_model.fp16.onnx and so on."""


@dg.asset(
    deps=["trained_checkpoint", *DATA],
    group_name="deployment",
    kinds={"onnx"},
    code_version="2",
    pool="gpu",
    op_tags=needs(gpus=1),
    tags={"har/stage": "deployment"},
    check_specs=[dg.AssetCheckSpec("parity_with_checkpoint", asset="onnx_model", blocking=True)],
)
def onnx_model(
    context: dg.AssetExecutionContext, config: OnnxConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.onnx`: uint8 clips [batch, 3, T, H, W] in, softmax scores [batch, K] out.

    In float32, float16 or 8 bits. Compared with the checkpoint on windows of the test videos before it is
    published, in every precision.
    """
    with failures_in_words():
        return result_of(*make_onnx(context, config, store, mlflow))


def make_onnx(
    context: dg.AssetExecutionContext, config: OnnxConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> tuple[Artifact, bool]:
    """onnx_model in a store, and whether it was there already. Raises HarError."""

    def product_of(build: Build) -> Product:
        from har_assets.export.gate import ROUNDED, gate_predictors
        from har_assets.export.onnx import export_onnx
        from har_assets.export.precision import check_precision
        from har_assets.runtime.checkpoint import CheckpointPredictor

        precisions = list(dict.fromkeys(check_precision(name) for name in ("fp32", config.precision, *config.also)))
        config.check(precisions)
        files = {name: ONNX if name == config.precision else onnx_name(name) for name in precisions}
        checkpoint = build.inputs["trained_checkpoint"].file(CHECKPOINT)
        fp32 = export_onnx(checkpoint, build.folder / files["fp32"])
        notes: list[str] = []
        for name in precisions[1:]:
            notes += convert(fp32, build.folder / files[name], name, config, build.inputs)
        path = build.folder / ONNX

        parent = CheckpointPredictor(checkpoint, device="cpu")
        children: dict[str, Predictor] = {}
        for name in precisions:
            children |= gate_predictors(build.folder / files[name], name, fp32)
        parities, where = gates(parent, children, config, build.inputs, context.log.info)
        parity, child = parities[config.precision], children[config.precision]
        build.run.metrics({"onnx_max_difference": parity.max_difference, "onnx_top1_agreement": parity.top1_agreement})
        build.run.file(path)
        _write_card(build, parent, config.precision, parity)
        figures = parity.to_dict()
        rows = [{"precision": name, "file": files[name], **parities[name].to_dict()} for name in precisions]
        if ROUNDED in parities:
            notes.append(f"fp16 with every result rounded, as on a GPU: {parities[ROUNDED].words}")
        return Product(
            headline=f"{config.precision}, parity on {parity.clips:,} clips: max |difference| "
            f"{parity.max_difference:.1e}, same top-1 {parity.top1_agreement:.1%}",
            metadata={
                "precision": config.precision,
                "parity": figures,
                "precisions": rows,
                "compared": f"{parent.runtime} and {child.runtime} on {where}",
                "notes": notes,
            },
            checks={"parity_with_checkpoint": {**figures, "precisions": rows}},
            clips=parity.clips,
        )

    return made(
        context,
        store,
        config,
        product_of,
        name="onnx_model",
        code_version=onnx_model.get_asset_spec().code_version,
        upstream=("trained_checkpoint", *DATA),
        mlflow=mlflow,
    )


def _write_card(build: Build, parent: "Predictor", precision: str, parity: "Parity") -> None:
    """The model card beside the ONNX file."""
    from har_assets.model.networks import weights_licence
    from har_assets.report.card import model_card, training_facts

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


def convert(
    source: Path, target: Path, precision: str, config: ConversionConfig, inputs: dict[str, Artifact]
) -> list[str]:
    """Write a float32 ONNX file in another precision; returns what is to be said about it."""
    from har_assets.export.onnx import read_onnx, write_onnx
    from har_assets.export.precision import to_fp16, to_int8

    proto, spec, provenance = read_onnx(source)
    if precision == "fp16":
        write_onnx(to_fp16(proto), spec, provenance, target)
        return []
    windows, role = windows_of(("val", "train"), inputs, spec, config.calibration_windows)
    quantised = to_int8(proto, (clips_BCTHW for clips_BCTHW, _ in windows.batches()), config.calibrator())
    write_onnx(quantised, spec, provenance, target)
    missing = "" if role == "val" else ", as no validation video was decoded"
    return [f"int8 was calibrated on {len(windows):,} windows of the {role} videos{missing}"]


def gates(
    parent: "Predictor",
    children: Mapping[str, "Predictor"],
    config: ConversionConfig,
    inputs: dict[str, Artifact],
    log: Callable[[str], None],
) -> "tuple[dict[str, Parity], str]":
    """Parity of each child with the parent on windows of the test videos, and on which windows that is, in words.

    ParityError when a gate does not hold.
    """
    from har_assets.export.gate import pass_gates

    # A data set may have no test video that can be decoded; its model is to be deployed all the same.
    windows, role = windows_of(("test", "val", "train"), inputs, parent.spec, config.parity_windows)
    where = f"{len(windows):,} windows of the {role} videos"
    log(f"Comparing {', '.join(children)} on {where}.")
    return pass_gates(parent, children, windows, config.limits, log), where


def windows_of(
    roles: tuple[str, ...], inputs: dict[str, Artifact], spec: ModelSpec, count: int
) -> "tuple[Windows, str]":
    """`count` windows of the videos of the first role that has decoded ones, and that role (`train`, `val`, `test`)."""
    from har_assets.export.windows import spread_windows
    from har_assets.video.frame_cache import FrameCache

    cache = FrameCache(inputs["frame_cache"].folder)
    for role in roles:
        windows = spread_windows(read_manifest_of(inputs[f"{role}_manifest"], role), cache, spec, count)
        if len(windows):
            return windows, role
    raise HarError(
        f"No video of {' or '.join(roles)} could be decoded: look at the quarantine table in frame_cache's metadata."
    )


class EngineConfig(ConversionConfig):
    """How the engine is built."""

    not_content: ClassVar[frozenset[str]] = ConversionConfig.not_content | {"timing_cache"}

    precision: str = ""
    """fp32, fp16 or int8; empty takes that of onnx_model. One that onnx_model has not published is made here from
    its fp32 model, and compared with that."""
    builder: str = "auto"
    """`tensorrt` (needs a GPU and the extra [tensorrt]), `tensorrt_rtx` (builds anywhere), or `auto`."""
    targets: list[str] = ["8.0", "8.6", "8.9", "12.0"]
    """Compute capabilities that a TensorRT-RTX engine is to run on."""
    min_batch: int = 1
    """Smallest batch size that the engine takes."""
    opt_batch: int = 8
    """Batch size that kernels are chosen for."""
    max_batch: int = 64
    """Largest batch size that the engine takes."""
    workspace_mib: int = 0
    """GPU memory in MiB that a layer may use for itself; 0 leaves it to the builder."""
    hardware_compatibility: str = ""
    """TensorRT only: `ampere_plus` or `same_compute_capability` for more GPUs than this one; empty is the fastest."""
    version_compatible: bool = False
    """TensorRT only: the engine runs in later versions of the same major version too."""
    tf32: bool = False
    """Let float32 convolutions round to 10 bits of mantissa: faster, and it may not hold fp32's gate."""
    timing_cache: bool = True
    """TensorRT only: keep the timings of kernels in the store, so that the next build measures nothing again."""


@dg.asset(
    deps=[onnx_model, *DATA],
    group_name="deployment",
    kinds={"tensorrt"},
    code_version="2",
    pool="gpu",
    op_tags=needs(gpus=1),
    tags={"har/stage": "deployment"},
    check_specs=[dg.AssetCheckSpec("parity_with_onnx", asset="trt_engine", blocking=True)],
)
def trt_engine(
    context: dg.AssetExecutionContext, config: EngineConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.engine` and, beside it, a JSON that says what it was made from and runs on.

    Built by TensorRT where that and a GPU are there, else by TensorRT-RTX, which needs no GPU. Compared with its
    ONNX model where the GPU of this machine can run it; elsewhere a few clips with their scores lie beside it
    and it is compared when it is first loaded.
    """

    def product_of(build: Build) -> Product:
        from har_assets.export.tensorrt import EngineOptions, build_engine, sidecar_path

        onnx = build.inputs["onnx_model"]
        options = EngineOptions(
            builder=config.builder,
            targets=tuple(config.targets),
            min_batch=config.min_batch,
            opt_batch=config.opt_batch,
            max_batch=config.max_batch,
            workspace_mib=config.workspace_mib,
            hardware_compatibility=config.hardware_compatibility,
            version_compatible=config.version_compatible,
            tf32=config.tf32,
        )
        precision = config.precision or deployed_precision(onnx)
        source, source_parity, notes = onnx_for_engine(precision, build, config, context.log.info)
        path = build.folder / ENGINE
        caches = store.folder.root / "trt_engine" / ".timing_caches" if config.timing_cache else None
        engine = build_engine(source, path, options, timing_caches=caches)
        parity = engine_parity(path, source, engine, config, build.inputs, context.log.info)
        build.run.file(path)
        build.run.file(sidecar_path(path))
        figures = {k: v for k, v in engine.items() if k not in ("spec", "provenance", "log")}
        return Product(
            headline=f"{engine['builder']} {engine['builder_version']}, {engine['precision']}, "
            f"{engine['engine_bytes'] / 1e3:.0f} kB, for SM {', '.join(engine['compute_capabilities'])}",
            metadata={
                **figures,
                "onnx": source.name,
                "onnx_parity": source_parity,
                "parity": parity if parity["measured"] else f"not measured: {parity['reason']}",
                "notes": notes,
                "build_log": engine["log"],
            },
            # Not measured is no failure: a warning until it is compared on a GPU.
            checks={"parity_with_onnx": {"passed": False, "warning": not parity["measured"], **parity}},
        )

    from har_assets.export.tensorrt import builder_identity

    with failures_in_words():
        identity = builder_identity(config.builder)
    return publish(
        context,
        store,
        config,
        product_of,
        upstream=("onnx_model", *DATA),
        identity=identity,
        mlflow=mlflow,
        reusable=lambda engine: is_measured(engine) or bool(why_engine_waits(engine)),
    )


def onnx_for_engine(
    precision: str, build: Build, config: EngineConfig, log: Callable[[str], None]
) -> tuple[Path, dict[str, Any], list[str]]:
    """The ONNX file that an engine of that precision is built from, its parity, and notes.

    That is the one of onnx_model, or one made from its float32 model into the engine's own folder.
    HarError when its parity is not what was asked for.
    """
    from har_assets.export.gate import gate_predictors
    from har_assets.export.precision import check_precision
    from har_assets.runtime.onnx import OnnxPredictor

    check_precision(precision)
    config.check([precision])
    onnx = build.inputs["onnx_model"]
    published = published_precisions(onnx)
    if precision in published:
        refuse_failed_parity(onnx, precision)
        return onnx.file(published[precision]["file"]), parity_of(onnx, precision), []
    refuse_failed_parity(onnx, "fp32")
    parent = onnx.file(published["fp32"]["file"])
    target = build.folder / onnx_name(precision)
    notes = convert(parent, target, precision, config, build.inputs)
    parities, where = gates(
        OnnxPredictor(parent, provider="CPU"), gate_predictors(target, precision, parent), config, build.inputs, log
    )
    notes += [
        f"{name} from {parent.name} of onnx_model on {where}: {parity.words}" for name, parity in parities.items()
    ]
    return target, parities[precision].to_dict(), notes


def engine_parity(
    path: Path,
    source: Path,
    engine: dict[str, Any],
    config: EngineConfig,
    inputs: dict[str, Artifact],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Compare an engine with its ONNX file and write that into its sidecar: `measured`, the figures, or the `reason`.

    Beside the engine a few clips and the scores of the ONNX file are left. ParityError when a gate does not hold.
    """
    import numpy as np

    from har_assets.export.tensorrt import record_parity, write_reference
    from har_assets.runtime import open_model
    from har_assets.runtime.onnx import OnnxPredictor
    from har_assets.runtime.tensorrt import why_not_engine

    parent = OnnxPredictor(source, provider="CPU")
    windows, _ = windows_of(("test", "val", "train"), inputs, parent.spec, REFERENCE_CLIPS)
    clips_BCTHW = np.concatenate([batch_BCTHW for batch_BCTHW, _ in windows.batches()])
    write_reference(path, clips_BCTHW, parent.predict(clips_BCTHW))
    limits = config.limits(engine["precision"])
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
    parities, where = gates(parent, {engine["precision"]: child}, config, inputs, log)
    parity = {
        "measured": True,
        **parities[engine["precision"]].to_dict(),
        "compared": f"{parent.runtime} and {child.runtime} on {where}",
    }
    record_parity(path, parity)
    return parity


def is_measured(engine: Artifact) -> bool:
    """True when an engine was compared with its ONNX model before it was published."""
    return isinstance(engine.record.metadata.get("parity"), dict)


def why_engine_waits(engine: Artifact) -> str:
    """Why a published engine cannot be compared on this machine; empty where it can, so that it is made again."""
    from har_assets.runtime.tensorrt import why_not_engine

    return why_not_engine(engine.record.metadata)


def published_precisions(onnx: Artifact) -> dict[str, dict[str, Any]]:
    """Precision to `file` and parity of what onnx_model has published."""
    rows = onnx.record.metadata.get("precisions")
    if not rows:
        raise HarError("onnx_model was published by an older version: materialize it again.")
    return {row["precision"]: row for row in rows}


def deployed_precision(onnx: Artifact) -> str:
    """Precision of `video_action_model.onnx`."""
    return next(name for name, row in published_precisions(onnx).items() if row["file"] == ONNX)


def published_onnx(onnx: Artifact, precision: str = "") -> Path:
    """The ONNX file of a precision, or the deployed one; HarError, with the way to it, where it was not published."""
    if not precision:
        return onnx.file(ONNX)
    published = published_precisions(onnx)
    if precision not in published:
        raise HarError(
            f"onnx_model was published in {', '.join(published)}, not in {precision}: materialize it with "
            f"precision: {precision}, or with also: [{precision}]."
        )
    return onnx.file(published[precision]["file"])


def parity_of(onnx: Artifact, precision: str) -> dict[str, Any]:
    """Figures of the parity of one precision."""
    return {name: value for name, value in published_precisions(onnx)[precision].items() if name != "file"}


def refuse_failed_parity(artifact: Artifact, precision: str = "") -> None:
    """HarError unless the parity that was published with a model, or with one of its precisions, passed."""
    parity = parity_of(artifact, precision) if precision else artifact.record.metadata.get("parity")
    if not (isinstance(parity, dict) and parity.get("passed")):
        raise HarError(
            f"{artifact.record.asset} did not pass its parity gate: materialize it again and look at its metadata."
        )
