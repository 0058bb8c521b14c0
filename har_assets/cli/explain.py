"""`har explain`: where and when a video speaks for the model's answer."""

from pathlib import Path
from typing import Annotated

import typer

from har_assets.cli.output import Store, printable
from har_assets.errors import HarError
from har_assets.model.files import CHECKPOINT
from har_assets.store.opening import open_store


def explain(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    out: Annotated[Path | None, typer.Option(help="WebP file to write; VIDEO.webp here if left out.")] = None,
    label: Annotated[str, typer.Option(help="Class to explain; the model's answer if left out.")] = "",
    model: Annotated[Path | None, typer.Option(help="A .ckpt file; the latest trained_checkpoint if left out.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Temporal clips; the one with the highest score is shown.")] = 4,
    store: Store = "",
) -> None:
    """Show where and when a video speaks for the model's answer, as a moving picture beside the frames (Grad-CAM)."""
    import numpy as np

    from har_assets.model.saliency import class_saliency
    from har_assets.report.frames import moving_webp, shown_from_video, with_heat
    from har_assets.runtime.checkpoint import CheckpointPredictor
    from har_assets.runtime.video import ranked
    from har_assets.runtime.windows import read_windows

    target = out or Path(f"{video.stem}.webp")
    if target.suffix != ".webp":
        raise HarError(f"{target} is no .webp file, which is what is written: give another name.")
    path = model or open_store(store).latest("trained_checkpoint").file(CHECKPOINT)
    predictor = CheckpointPredictor(path)
    spec = predictor.spec
    if label and label not in spec.labels:
        raise HarError(f"The model has no class {label!r}: choose one of {', '.join(spec.labels)}.")
    read = read_windows(video, spec, windows)
    (answer, *_), (score, *_) = ranked(predictor.predict(read.clips_BCTHW).mean(axis=0), spec.labels, 1)
    found = class_saliency(predictor.model, read.clips_BCTHW, spec.labels.index(label or answer))
    shown = shown_from_video(video, spec, read.starts[found.clip])
    both_THWC = np.concatenate([shown.frames_THWC, with_heat(shown, found.heat_THW)], axis=2)
    try:
        target.write_bytes(moving_webp(both_THWC, shown.frame_ms))
    except OSError as error:
        raise HarError(f"{target} cannot be written ({error.strerror}): name another file by --out.") from None
    print(printable(f"{video}: {answer} ({score:.1%})"))
    nothing = "" if found.heat_THW.any() else " (nothing does)"
    print(printable(f"{target} shows what speaks for {label or answer}{nothing}"))
