from typing import Any

import pytest
from pydantic import ValidationError

from har_assets.errors import HarError
from har_assets.export.engine_options import EngineOptions
from har_assets.export.options import ConversionOptions, OnnxOptions, TrtEngineOptions
from har_assets.options import Options
from har_assets.report.options import ReportOptions
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.runtime.parity import DEFAULT_LIMITS, Limits
from har_assets.serving.limits import ServingLimits


@pytest.mark.parametrize(
    "kind",
    [BenchmarkOptions, ConversionOptions, EngineOptions, OnnxOptions, ReportOptions, ServingLimits, TrtEngineOptions],
)
def test_each_option_is_described_and_none_is_unknown(kind: type[Options]) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
    with pytest.raises(ValidationError, match="unheard_of"):
        kind(unheard_of=1)  # type: ignore[call-arg]


def test_a_gate_that_is_not_given_keeps_its_default() -> None:
    options = ConversionOptions(max_difference={"int8": 0.5}, top1_agreement={"fp16": 0.9})
    assert options.limits("int8") == Limits(0.5, DEFAULT_LIMITS["int8"].top1_agreement)
    assert options.limits("fp16") == Limits(DEFAULT_LIMITS["fp16"].max_difference, 0.9)
    assert options.limits("fp32") == DEFAULT_LIMITS["fp32"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_difference": {"fp64": 1.0}}, "There is no precision 'fp64': choose fp32, fp16, int8"),
        ({"top1_agreement": {"bf16": 1.0}}, "There is no precision 'bf16'"),
        ({"calibration": "magic"}, "no calibration 'magic': choose percentile or entropy"),
        ({"calibration_percentile": 50.0}, "choose one above 50, up to 100"),
        ({"parity_windows": -1}, "choose 1 or more, or 0 for every window"),
        ({"calibration_windows": -1}, "choose 1 or more, or 0 for every window"),
    ],
)
def test_an_impossible_conversion_is_one_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HarError, match=words):
        ConversionOptions(**fields).check_conversions(["fp32"])


def test_fp32_is_published_first_and_each_precision_once() -> None:
    assert OnnxOptions().precisions() == ["fp32"]
    assert OnnxOptions(precision="int8", also=["fp32", "fp16", "int8"]).precisions() == ["fp32", "int8", "fp16"]
    with pytest.raises(HarError, match="There is no precision 'fp8'"):
        OnnxOptions(also=["fp8"]).precisions()
