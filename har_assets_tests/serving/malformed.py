"""Requests that no server should answer with 200: damaged videos, wrong types, wrong limits, broken JSON."""

import base64
import json
import random
from pathlib import Path

Malformed = tuple[str, bytes, str | None]
"""What is wrong, body, content type (None sends no such header)."""

JSON = "application/json"


def malformed_requests(videos: list[Path], count: int, seed: int = 0) -> list[Malformed]:
    """`count` different ones, the same for the same seed."""
    rng = random.Random(seed)
    good = [base64.b64encode(video.read_bytes()).decode() for video in videos]
    found: list[Malformed] = [(name, body.encode(), JSON) for name, body in _by_hand(good[0])]
    found += [
        ("no content type", b"x", None),
        ("empty content type", b"{}", ""),
        ("plain text", b"hello", "text/plain"),
        ("another encoding", b"{}", "application/json; charset=latin1"),
        ("no CSV", b'"', "text/csv"),
        ("empty CSV", b"", "text/csv"),
        ("CSV of no video", b"video\naGVsbG8=\n", "text/csv"),
        ("no Parquet", b"PAR1", "application/vnd.apache.parquet"),
        ("no UTF-8", b"\xff\xfe\x00{", JSON),
    ]
    kinds = (_noise, _cut, _cut_base64, _wrong_characters, _random_json, _header_then_noise)
    while len(found) < count:
        kind = kinds[len(found) % len(kinds)]
        found.append((kind.__name__.strip("_").replace("_", " "), kind(rng, good).encode(), JSON))
    return found[:count]


def _rows(*rows: object, **more: object) -> str:
    return json.dumps({"dataframe_records": list(rows), **more})


def _by_hand(good: str) -> list[tuple[str, str]]:
    video = {"video": good}
    return [
        ("nothing", ""),
        ("null", "null"),
        ("a list", "[1, 2]"),
        ("half an object", "{"),
        ("no known key", "{}"),
        ("two keys", json.dumps({"inputs": [video], "instances": [video]})),
        ("no rows", _rows()),
        ("rows are a number", '{"dataframe_records": 5}'),
        ("rows are a text", '{"dataframe_records": "x"}'),
        ("a row is a number", _rows(5)),
        ("a row is null", _rows(None)),
        ("no column of that name", _rows({"vidoe": good})),
        ("null video", _rows({"video": None})),
        ("number", _rows({"video": 7})),
        ("list", _rows({"video": [1, 2]})),
        ("object", _rows({"video": {"a": 1}})),
        ("true", _rows({"video": True})),
        ("empty text", _rows({"video": ""})),
        ("no base64", _rows({"video": "no base64"})),
        ("spaces", _rows({"video": "    "})),
        ("data URL", _rows({"video": f"data:video/mp4;base64,{good}"})),
        ("both", _rows({"video": good, "path": "x"})),
        ("path off or absent", _rows({"path": "/etc/passwd"})),
        ("path upwards", _rows({"path": "../../../../etc/passwd"})),
        ("path with a zero", _rows({"path": "a\0b"})),
        ("too many rows", _rows(*[video] * 40)),
        ("top_k 0", _rows(video, params={"top_k": 0})),
        ("top_k -1", _rows(video, params={"top_k": -1})),
        ("top_k text", _rows(video, params={"top_k": "many"})),
        ("top_k half", _rows(video, params={"top_k": 1.5})),
        ("top_k list", _rows(video, params={"top_k": [1]})),
        ("windows 0", _rows(video, params={"windows": 0})),
        ("windows 10^9", _rows(video, params={"windows": 10**9})),
        ("windows 10^30", _rows(video, params={"windows": 10**30})),
        ("params are a list", _rows(video, params=[1])),
        ("split without data", '{"dataframe_split": {"columns": ["video"]}}'),
        ("split of wrong width", '{"dataframe_split": {"columns": ["video"], "data": [["a", "b"]]}}'),
        ("inputs are a number", '{"inputs": 5}'),
        ("instances are numbers", '{"instances": [1, 2]}'),
        ("a good row and a bad one", _rows(video, {"video": "aGVsbG8="})),
        ("NaN", '{"dataframe_records": [{"video": NaN}]}'),
        ("deep", '{"inputs": ' + "[" * 100_000),
        ("text of one letter", _rows({"video": "A"})),
        ("a text file", _rows({"video": base64.b64encode(b"#EXTM3U\nfile:///etc/passwd\n").decode()})),
        ("an address", _rows({"video": base64.b64encode(b"http://127.0.0.1/x.mp4").decode()})),
    ]


def _video(data: bytes) -> str:
    return _rows({"video": base64.b64encode(data).decode()})


def _noise(rng: random.Random, good: list[str]) -> str:
    return _video(rng.randbytes(rng.choice((1, 16, 1000))))


def _cut(rng: random.Random, good: list[str]) -> str:
    """So little of a video that no frame is left."""
    return _video(base64.b64decode(rng.choice(good))[: rng.randrange(1, 1500)])


def _cut_base64(rng: random.Random, good: list[str]) -> str:
    text = rng.choice(good)
    return _rows({"video": text[: 4 * rng.randrange(1, len(text) // 4) + 1]})


def _wrong_characters(rng: random.Random, good: list[str]) -> str:
    text = list(rng.choice(good))
    text[rng.randrange(len(text))] = rng.choice("!\n\0é ")
    return _rows({"video": "".join(text)})


def _random_json(rng: random.Random, good: list[str]) -> str:
    text = _rows({"video": good[0][:2000]})
    place = rng.randrange(1, 20)
    return text[:place] + rng.choice('}]:,"x') + text[place + 1 :]


def _header_then_noise(rng: random.Random, good: list[str]) -> str:
    data = base64.b64decode(rng.choice(good))
    return _video(data[: rng.randrange(12, 64)] + rng.randbytes(2000))
