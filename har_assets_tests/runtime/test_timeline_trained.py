"""The timeline of a film of known actions by the model of the sample pipeline."""

from pathlib import Path

import av
import pytest

from har_assets.runtime import open_model
from har_assets.runtime.timeline import predict_timeline
from har_assets.video.decode import decode_video
from har_assets_tests.project import Project


def test_a_trained_model_finds_the_actions_of_a_film_of_the_sample(sample_road: Project, tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    order = ("pullup", "run", "jump", "walk")
    borders_s = [0.0]
    frames = 0
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for label in order:
            for clip in sorted((sample_road.folder / "data" / "videos" / label).iterdir())[:4]:
                for frame_HWC in decode_video(clip, size=(120, 160)).frames_THWC:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
                    frames += 1
            borders_s.append(frames / 30)
        container.mux(stream.encode())
    model = open_model(sample_road.latest("onnx_model").file("video_action_model.onnx"))
    found = predict_timeline(model, film)
    longest = sorted(found.segments, key=lambda segment: segment.start_s - segment.end_s)[: len(order)]
    in_time = sorted(longest, key=lambda segment: segment.start_s)
    assert [segment.label for segment in in_time] == list(order)
    assert [segment.start_s for segment in in_time] == pytest.approx(borders_s[:-1], abs=found.hop_s)
    assert [segment.end_s for segment in in_time] == pytest.approx(borders_s[1:], abs=found.hop_s)
