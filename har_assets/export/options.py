"""Options of onnx_model and trt_engine: what they have in common, and what each adds."""

from __future__ import annotations

from har_assets.errors import HarError
from har_assets.export.engine_options import EngineOptions
from har_assets.export.precision import Calibration, check_precision
from har_assets.options import Options
from har_assets.runtime.parity import DEFAULT_LIMITS, Limits


class ConversionOptions(Options):
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
        """The gate of a precision; HarError when the options name one that does not exist."""
        for name in (precision, *self.max_difference, *self.top1_agreement):
            check_precision(name)
        default = DEFAULT_LIMITS[precision]
        return Limits(
            self.max_difference.get(precision, default.max_difference),
            self.top1_agreement.get(precision, default.top1_agreement),
        )

    def check_conversions(self, precisions: list[str]) -> None:
        """HarError when an option is impossible, before any work is done."""
        for precision in precisions:
            self.limits(precision)
        self.calibrator()
        if self.parity_windows < 0 or self.calibration_windows < 0:
            raise HarError(
                f"parity_windows is {self.parity_windows} and calibration_windows {self.calibration_windows}: choose "
                "1 or more, or 0 for every window."
            )

    def calibrator(self) -> Calibration:
        """The settings of int8; HarError for impossible ones."""
        return Calibration(self.calibration, self.calibration_percentile)


class OnnxOptions(ConversionOptions):
    """Export and its gate."""

    precision: str = "fp32"
    """Precision of video_action_model.onnx, which is deployed: fp32, fp16 or int8. Where it is not fp32, the fp32
    model is published beside it as video_action_model.fp32.onnx."""
    also: list[str] = []
    """Further precisions to publish beside it, as video_action_model.fp16.onnx and so on."""

    def precisions(self) -> list[str]:
        """Precisions to publish, fp32 first; HarError for one that does not exist."""
        return list(dict.fromkeys(check_precision(name) for name in ("fp32", self.precision, *self.also)))


class TrtEngineOptions(EngineOptions, ConversionOptions):
    """How an engine is built, from what, and its gate."""

    precision: str = ""
    """fp32, fp16 or int8; empty takes that of onnx_model. One that onnx_model has not published is made here from
    its fp32 model, and compared with that."""
