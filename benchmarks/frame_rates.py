"""The test videos of the latest model at other frame rates: the same answers, whoever is asked?

    python -m benchmarks.frame_rates [--store artifacts] [--data data] [--videos 32] [--rates 15 vfr] [--timeline]

Each test video is written again with the pictures that it shows at the moments of another rate (`vfr`: moments drawn at
random, 40 a second). `har predict`, the served model, incoming_video_predictions and, where asked for, `har predict
--timeline` answer them. The numbers are right answers by rate.
"""

import argparse
import json
import logging
import tempfile
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
from dagster import DagsterInstance

from har_assets.model.files import ONNX
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.timeline import predict_timeline
from har_assets.runtime.video import VideoPrediction, predict_videos
from har_assets.serving.limits import ServingLimits
from har_assets.serving.service import VideoRow, VideoService
from har_assets_tests.graph.assets.test_incoming import Here
from har_assets_tests.incoming.server import current, publish_model
from har_assets_tests.project import Project
from har_assets_tests.serving.server import encoded

TICKS = 90_000
"""A second, in the units of the times of frames."""


def pictures_of(video: Path) -> tuple[list[av.VideoFrame], float]:
    """The frames of a video of a constant rate, and that rate."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return list(container.decode(stream)), float(stream.average_rate or 30)


def moments(rate: str, seconds: float) -> list[float]:
    """The seconds at which a video of a rate shows its frames."""
    if rate == "vfr":
        drawn = np.random.default_rng(0).uniform(0, seconds, round(40 * seconds))
        return [0.0, *sorted({round(float(each), 3) for each in drawn} - {0.0})]
    return [number / int(rate) for number in range(round(seconds * int(rate)))]


def at_rate(video: Path, target: Path, rate: str) -> Path:
    """Write a video again at another rate, nearly without loss."""
    pictures, fps = pictures_of(video)
    starts = [number / fps for number in range(len(pictures))]
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=30 if rate == "vfr" else int(rate), options={"crf": "6"})
        stream.height, stream.width, stream.pix_fmt = pictures[0].height, pictures[0].width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        for shown_s in moments(rate, len(pictures) / fps):
            source = pictures[bisect_right(starts, shown_s + 1e-6) - 1]
            frame = av.VideoFrame.from_ndarray(source.to_ndarray(format="rgb24"), format="rgb24")
            frame.pts, frame.time_base = round(shown_s * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target


def predicted(predictor: Predictor, videos: list[Path]) -> tuple[list[str], int]:
    """Answers of `har predict`, and the number of videos with a note."""
    found = [each for each in predict_videos(predictor, videos) if isinstance(each, VideoPrediction)]
    return [each.labels[0] for each in found], sum(bool(each.note) for each in found)


def served(onnx: Path, videos: list[Path], folder: Path) -> list[str]:
    """Answers of the model as it is served."""
    service = VideoService(onnx, ServingLimits(), runtime="onnxruntime_cpu", workers=1, folder=folder)
    try:
        return [service.predict([VideoRow(encoded(video))], top_k=1)[0]["labels"][0] for video in videos]
    finally:
        service.close()


def incoming(onnx: Path, videos: list[Path], folder: Path) -> list[str]:
    """Answers of incoming_video_predictions: the sensor looks at a folder and its run predicts."""
    project = Project.make(folder / "project")
    place = project.folder / "incoming"
    place.mkdir()
    (folder / "dagster").mkdir()
    publish_model(project, onnx)
    for number, video in enumerate(videos):
        (place / f"{number:03d}.mp4").hardlink_to(video)
    with DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        here = Here(project, instance)
        while (run := here.go()) is not None:
            assert run.success
    found = current(project)
    return [str(found[f"{number:03d}.mp4"]["label"]) for number in range(len(videos))]


def timed(predictor: Predictor, videos: list[Path]) -> list[str]:
    """The class with the highest mean score over the windows of each timeline."""
    labels = predictor.spec.labels
    return [labels[predict_timeline(predictor, video).scores_NK.mean(axis=0).argmax()] for video in videos]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rates", nargs="+", default=["10", "15", "25", "30", "50", "60", "120", "vfr"])
    parser.add_argument("--videos", type=int, default=32, help="spread evenly over the test set")
    parser.add_argument("--timeline", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    manifest = pd.read_csv(options.store / "test_manifest" / "latest" / "test.csv")
    manifest = manifest.iloc[np.linspace(0, len(manifest) - 1, options.videos).round().astype(int)]
    onnx = options.store / "onnx_model" / "latest" / ONNX
    predictor = open_model(onnx, "onnxruntime_cpu")
    print(f"{len(manifest)} test videos; {json.loads(predictor.spec.to_json())['num_frames']} frames a clip")
    print(f"{'rate':>5} {'predict':>8} {'serving':>8} {'incoming':>9} {'timeline':>9} {'noted':>6}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for rate in options.rates:
            folder = Path(name) / rate
            videos = [
                at_rate(options.data / "videos" / clip, folder / f"{clip}.mp4", rate) for clip in manifest["clip"]
            ]
            (folder / "served").mkdir()
            answers, noted = predicted(predictor, videos)
            columns = [
                answers,
                served(onnx, videos, folder / "served"),
                incoming(onnx, videos, folder),
                *([timed(predictor, videos)] if options.timeline else []),
            ]
            right = [sum(a == b for a, b in zip(each, manifest["label"], strict=True)) for each in columns]
            in_time = right[3] if options.timeline else "-"
            print(f"{rate:>5} {right[0]:>8} {right[1]:>8} {right[2]:>9} {in_time:>9} {noted:>6}", flush=True)


if __name__ == "__main__":
    main()
