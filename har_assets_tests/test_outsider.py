"""What an outsider tries, and the answer. SECURITY.md has the whole list; most of its tests are elsewhere.

The model files here are those of someone who knows the format: they are sealed as har_assets seals its own.
"""

import ast
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import onnx
import pytest

from har_assets.errors import ModelFileError, VideoError
from har_assets.model.integrity import seal
from har_assets.runtime import available_runtimes, open_model
from har_assets_tests.project import REPOSITORY


def tampered(sound: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of an ONNX file that someone has changed and sealed again."""
    proto = onnx.load(str(sound))
    change(proto)
    seal(proto)
    path = folder / "hostile.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def refusals(path: Path) -> list[str]:
    """What every runtime that works here says of a file; one that takes it fails the test."""
    said = []
    for found in available_runtimes(path):
        if found.available:
            with pytest.raises(ModelFileError) as error:
                open_model(path, found.name)
            said.append(str(error.value))
    assert said
    assert not any("\n" in sentence for sentence in said)
    return said


def outside(tensor: onnx.TensorProto, location: str) -> None:
    """Move the content of a tensor to a file that the model names."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../etc/passwd", "weights.bin", "/proc/self/environ"])
def test_an_onnx_file_that_names_other_files_is_refused(location: str, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    path = tampered(tiny_onnx, tmp_path, lambda proto: outside(proto.graph.initializer[0], location))
    assert all("keeps tensors in other files, which are never opened" in said for said in refusals(path))


def test_nor_may_a_subgraph_or_an_attribute_name_one(tiny_onnx: Path, tmp_path: Path) -> None:
    def in_a_branch(proto: onnx.ModelProto) -> None:
        tensor = onnx.helper.make_tensor("secret", onnx.TensorProto.FLOAT, [4], bytes(16), raw=True)
        outside(tensor, "../secret")
        branch = onnx.helper.make_graph([], "branch", [], [], [tensor])
        proto.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))

    def in_an_attribute(proto: onnx.ModelProto) -> None:
        tensor = onnx.helper.make_tensor("secret", onnx.TensorProto.FLOAT, [4], bytes(16), raw=True)
        outside(tensor, "../secret")
        proto.graph.node.append(onnx.helper.make_node("Constant", [], ["d"], value=tensor))

    for change in (in_a_branch, in_an_attribute):
        assert all("other files" in said for said in refusals(tampered(tiny_onnx, tmp_path, change)))


HUGE = """
import sys
from pathlib import Path
from har_assets.errors import ModelFileError
from har_assets.runtime import open_model
try:
    open_model(Path(sys.argv[1]), "onnxruntime_cpu")
except ModelFileError as error:
    print(error)
"""


def test_a_tensor_that_claims_to_be_huge_is_refused_without_its_memory(tiny_onnx: Path, tmp_path: Path) -> None:
    def claim(proto: onnx.ModelProto) -> None:
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend([2**31, 2**20])

    path = tampered(tiny_onnx, tmp_path, claim)
    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30)),
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert "hostile.onnx" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "field",
    ["num_frames", "frame_height", "labels"],
)
def test_a_spec_that_its_graph_does_not_keep_is_refused(field: str, tiny_onnx: Path, tmp_path: Path) -> None:
    def lie(proto: onnx.ModelProto) -> None:
        (entry,) = [entry for entry in proto.metadata_props if entry.key == "har_assets.spec"]
        spec = json.loads(entry.value)
        if field == "labels":
            spec["labels"] = [*spec["labels"], "one_more"]
        else:
            spec[field] -= 1
        entry.value = json.dumps(spec)

    assert all("contradicts itself" in said for said in refusals(tampered(tiny_onnx, tmp_path, lie)))


def test_a_playlist_that_calls_itself_a_video_asks_nobody(tmp_path: Path) -> None:
    from har_assets.video.decode import decode_video

    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/latest/meta-data"
        playlists = {
            "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
            "concat.avi": f"ffconcat version 1.0\nfile {address}\n",
            "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
            f"<BaseURL>{address}</BaseURL><Period><AdaptationSet><Representation/></AdaptationSet></Period>"
            "</MPD>",
            "sdp.avi": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {server.server_address[1]} "
            "RTP/AVP 96\n",
        }
        for name, text in playlists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(VideoError):
                decode_video(tmp_path / name, size=(8, 8))
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


def test_decord_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from har_assets.errors import HarError
    from har_assets.video.decode import decode_video
    from har_assets_tests.video.conftest import make_video

    video = make_video(tmp_path / "a.avi")
    both = decode_video(video, size=(16, 16))
    monkeypatch.setenv("HAR_DECODER", "pyav")
    alone = decode_video(video, size=(16, 16))
    assert (both.decoder, alone.decoder) == ("decord", "pyav")
    assert np.array_equal(both.frames_THWC, alone.frames_THWC)
    monkeypatch.setenv("HAR_DECODER", "opencv")
    with pytest.raises(HarError, match="HAR_DECODER is 'opencv': it should be 'auto' or 'pyav'"):
        decode_video(video, size=(16, 16))


def test_every_answer_of_the_threat_model_has_its_test() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (REPOSITORY / "SECURITY.md").read_text())
    assert len(named) > 30
    for file, name in named:
        path = REPOSITORY / "har_assets_tests" / file
        assert path.is_file(), file
        functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
