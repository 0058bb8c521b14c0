import json
from dataclasses import replace

import pytest

from har_assets.errors import ModelFileError
from har_assets.model.spec import SPEC_KEY, ModelSpec, Provenance, from_metadata, to_metadata


def test_spec_and_provenance_survive_the_journey_through_a_file(tiny_spec: ModelSpec) -> None:
    provenance = Provenance(dataset="sample", synthetic=True, data_version="1.dir", split=3, mlflow_run_id="r")
    assert from_metadata(json.loads(json.dumps(to_metadata(tiny_spec, provenance))), "x") == (tiny_spec, provenance)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ("a",)}, "two or more"),
        ({"labels": ("a", "a")}, "different labels"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"frame_height": 21}, "cannot be cut"),
    ],
)
def test_an_impossible_spec_is_refused(tiny_spec: ModelSpec, change: dict[str, object], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        replace(tiny_spec, **change)  # type: ignore[arg-type]


def test_a_file_without_a_spec_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"other\.onnx carries no har_assets model spec"):
        from_metadata({}, "other.onnx")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 1, "labels": 3}'])
def test_a_damaged_spec_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match="export the model again"):
        from_metadata({SPEC_KEY: text}, "x")


def test_a_spec_of_another_format_names_both(tiny_spec: ModelSpec) -> None:
    other = json.dumps({**json.loads(tiny_spec.to_json()), "format": 99})
    with pytest.raises(ModelFileError, match="spec format 99"):
        ModelSpec.from_json(other)
