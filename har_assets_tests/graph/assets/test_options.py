"""Configurations of source, deployment, evaluation, serving: what they are hashed by, and what the Launchpad shows."""

from typing import Any

import pytest

from har_assets import defs
from har_assets.graph.asset import AssetConfig
from har_assets.graph.assets.benchmark import BenchmarkConfig
from har_assets.graph.assets.dataset import RawArchiveConfig
from har_assets.graph.assets.deployment import EngineConfig, OnnxConfig
from har_assets.graph.assets.evaluation import PredictionConfig
from har_assets.graph.assets.report import ReportConfig
from har_assets.graph.assets.serving import ServingConfig

CONVERSION = {
    "parity_windows": 512,
    "max_difference": {"fp32": 0.0001, "fp16": 0.02, "int8": 0.25},
    "top1_agreement": {"fp32": 1.0, "fp16": 0.995, "int8": 0.98},
    "calibration": "percentile",
    "calibration_percentile": 99.99,
    "calibration_windows": 128,
}
LIMITS = {
    "max_video_bytes": 32_000_000,
    "max_rows": 16,
    "max_windows": 16,
    "max_frames": 9_000,
    "max_seconds": 300.0,
    "max_pixels": 8_912_896,
    "decode_timeout_s": 20.0,
    "request_timeout_s": 50.0,
}
CONTENT: list[tuple[type[AssetConfig], dict[str, Any]]] = [
    (RawArchiveConfig, {"split_lists": "", "archive_urls": [], "split_lists_urls": [], "sha256": ""}),
    (OnnxConfig, {**CONVERSION, "precision": "fp32", "also": []}),
    (
        EngineConfig,
        {
            **CONVERSION,
            "precision": "",
            "builder": "auto",
            "targets": ["8.0", "8.6", "8.9", "12.0"],
            "min_batch": 1,
            "opt_batch": 8,
            "max_batch": 64,
            "workspace_mib": 0,
            "hardware_compatibility": "",
            "version_compatible": False,
            "tf32": False,
        },
    ),
    (PredictionConfig, {"runtime": "onnx", "windows": 4}),
    (ReportConfig, {"mistakes": 12, "right": 4, "saliency": True}),
    (
        BenchmarkConfig,
        {
            "batch_sizes": [1, 8, 32],
            "rounds": 20,
            "max_seconds": 30.0,
            "clips": 32,
            "videos": 64,
            "windows": 4,
            "runtimes": [],
        },
    ),
    (ServingConfig, {"model_name": "har_video_action", "precision": "", "runtime": "auto", "workers": 0, **LIMITS}),
]


@pytest.mark.parametrize(("kind", "content"), CONTENT, ids=lambda value: getattr(value, "__name__", ""))
def test_the_content_of_the_defaults_is_what_published_keys_were_made_from(
    kind: type[AssetConfig], content: dict[str, Any]
) -> None:
    found = kind().content()
    assert found == content
    for name, value in content.items():
        assert type(found[name]) is type(value), name  # 300 and 300.0 give other keys


def test_a_served_model_travels_with_its_limits() -> None:
    assert ServingConfig(max_rows=3).served() == {"runtime": "auto", "workers": 0, **LIMITS, "max_rows": 3}


@pytest.mark.parametrize(
    "asset",
    ["onnx_model", "trt_engine", "test_predictions", "evaluation_report", "runtime_benchmark", "serving_model"],
)
def test_the_launchpad_describes_each_field(asset: str) -> None:
    fields = defs.resolve_assets_def(asset).op.config_schema.config_type.fields
    assert fields.keys() >= {"force"}
    assert [name for name, field in fields.items() if not field.description] == []
