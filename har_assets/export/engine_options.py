"""Options of an engine; light, so that the graph can show them."""

from __future__ import annotations

from har_assets.errors import HarError
from har_assets.options import Options

BUILDERS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}
"""Name in the configuration -> Python module."""


RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX knows: Turing, Ampere, Ada, Blackwell. Not Hopper (9.0)."""


HARDWARE_LEVELS = ("", "ampere_plus", "same_compute_capability")
"""Name in the configuration -> the same name in capitals in HardwareCompatibilityLevel; empty is this GPU."""


class EngineOptions(Options):
    """How an engine is built. Options that a builder has nothing for are refused, not ignored."""

    builder: str = "auto"
    """`tensorrt` (needs a GPU and the extra [tensorrt]), `tensorrt_rtx` (builds anywhere), or `auto`."""
    # All but Turing (7.5), for which TensorRT-RTX has no float32 3D convolution.
    targets: list[str] = ["8.0", "8.6", "8.9", "12.0"]
    """Compute capabilities that a TensorRT-RTX engine is to run on; TensorRT builds for the GPU of this machine."""
    min_batch: int = 1
    """Smallest batch size that the engine takes."""
    opt_batch: int = 8
    """Batch size that kernels are chosen for."""
    max_batch: int = 64
    """Largest batch size that the engine takes."""
    workspace_mib: int = 0
    """GPU memory in MiB that a layer may use for itself; 0 leaves it to the builder."""
    hardware_compatibility: str = ""
    """TensorRT only: `ampere_plus` runs on every GPU from Ampere on, `same_compute_capability` on GPUs of this one's
    compute capability; empty on this GPU's kind alone, the fastest."""
    version_compatible: bool = False
    """TensorRT only: the engine runs in later versions of the same major version too."""
    tf32: bool = False
    """Let float32 convolutions round to 10 bits of mantissa: faster, and it may not hold fp32's gate."""

    def check(self) -> None:
        """HarError when an option is impossible for every builder."""
        if self.builder not in ("auto", *BUILDERS):
            raise HarError(f"There is no builder {self.builder!r}: choose auto, {' or '.join(BUILDERS)}.")
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise HarError(
                f"min_batch is {self.min_batch}, opt_batch {self.opt_batch} and max_batch {self.max_batch}: choose "
                "1 <= min_batch <= opt_batch <= max_batch."
            )
        unknown = sorted(set(self.targets) - set(RTX_CAPABILITIES))
        if unknown or not self.targets:
            raise HarError(
                f"TensorRT-RTX does not build for compute capability {', '.join(unknown) or '(none given)'}: "
                f"choose from {', '.join(RTX_CAPABILITIES)}."
            )
        if self.workspace_mib < 0:
            raise HarError(f"workspace_mib is {self.workspace_mib}: choose 1 or more, or 0 for the builder's default.")
        if self.hardware_compatibility not in HARDWARE_LEVELS:
            raise HarError(
                f"There is no hardware_compatibility {self.hardware_compatibility!r}: choose "
                f"{' or '.join(filter(None, HARDWARE_LEVELS))}, or leave it empty."
            )

    def check_for(self, builder: str) -> None:
        """HarError when the builder has nothing for an option."""
        if builder != "tensorrt_rtx":
            return
        if self.hardware_compatibility:
            raise HarError(
                "TensorRT-RTX has no hardware_compatibility: leave it empty and name the compute capabilities in "
                "targets, or build with TensorRT."
            )
        if self.version_compatible:
            raise HarError(
                "TensorRT-RTX engines run in the version that built them only: set version_compatible: false and build "
                "again after an upgrade, or build with TensorRT."
            )
