"""Options evolve, and what is published stays."""

import itertools
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pytest
from pydantic import ValidationError

from har_assets import defs
from har_assets.graph.asset import CONFIGS, AssetConfig
from har_assets.graph.stage import STAGES
from har_assets.options import Options, added, former, wrong_options
from har_assets.system.files import hash_of, silent

CONTENT_OF_DEFAULTS = {
    "raw_archive": "833d51c4952f27074dfff1770ef45b6d611858d4bb286119bb08925d10d803e5",
    "video_clips": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "train_manifest": "1e4921269043c50658805c483585ec3c7364400a8a46d3b1fb2552522ae08132",
    "val_manifest": "1e4921269043c50658805c483585ec3c7364400a8a46d3b1fb2552522ae08132",
    "test_manifest": "1e4921269043c50658805c483585ec3c7364400a8a46d3b1fb2552522ae08132",
    "class_index": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "frame_cache": "a39c6e849708f8d6937f5122d846b7e21ade07c705deeaa1046f536659054546",
    "pretrained_weights": "5ae58a7fca4ef7b8bd4f23ae043cc3d6671b87dd13a739becf196c903b7b1a8f",
    "trained_checkpoint": "06206ddeeb2bc94c35b97e11ceb43c4205ab1adccb991320e2b51c71755b6a39",
    "onnx_model": "4bb37832da02af73559437f29209ea76520c578e885dcb6693f4ece63dbdb558",
    "trt_engine": "416785dc7c6a635f766a5ffaff5f5d92c96b584c6a2037c92ff2c58e78a46811",
    "serving_model": "04e1538c736898e4a9df2bb7e8ee8a2bf882e8c83721b1c9aa1894c001dc78f6",
    "test_predictions": "269462a5f143057e3ebd97323d2a4d833c0739523d0df924fe98477bf3efa202",
    "evaluation_report": "6a71c1875170286e60afe5a77d74cf644d456a217b75ff204a22b2154a6f77a2",
    "runtime_benchmark": "191f986e185ea18c694ab61aae0b87afb0437bc58d7112768fffd36229b9c8a6",
    "split_evaluation": "210a61861f2370e7ce26fe08a6979f7fbd89b3c6cdb95fc9bcf499bbde19a802",
    "hmdb51_benchmark": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "incoming_video_predictions": "e4e04ddec78efb39feb9463b46d02a6c7ec3f366ba3ba8c57364e115191278f7",
}
"""Hash of what each asset's default options put into its key. One that changes makes every product of every project
anew: a new option is declared with `added`, a renamed one leaves a `former`."""

CODE_VERSIONS = {name: "2" if name in (
    "video_clips", "frame_cache", "trained_checkpoint", "onnx_model", "trt_engine", "test_predictions"
) else "1" for name in CONTENT_OF_DEFAULTS}  # fmt: skip


class Training(Options):
    """Options as they were when products were published."""

    not_content: ClassVar[frozenset[str]] = frozenset({"threads"})

    rate: float = 0.1
    """Peak of the learning rate."""
    epochs: int = 30
    """Passes over the clips."""
    threads: int = 0
    """Threads that copy."""


class Later(Options):
    """The same after a release: one option renamed, one added, one gone."""

    not_content: ClassVar[frozenset[str]] = frozenset({"threads"})

    learning_rate: float = 0.1
    """Peak of the learning rate."""
    rate: float | None = former("learning_rate")
    mixup: float = added(0.0)
    """Strength of mixup; 0 does not mix."""
    epochs: int = 30
    """Passes over the clips."""
    threads: int = 0
    """Threads that copy."""


def test_the_keys_of_published_products_stay() -> None:
    assert defs
    found = {name: hash_of(CONFIGS[name]().content()) for name in STAGES}
    assert found == CONTENT_OF_DEFAULTS
    assert {name: stage.version for name, stage in STAGES.items()} == CODE_VERSIONS


def test_an_added_option_counts_only_where_it_is_not_neutral() -> None:
    assert Later().content() == Training().content()
    assert Later(mixup=0.2).content() == {**Training().content(), "mixup": 0.2}
    assert Later().recorded()["mixup"] == 0.0, "a record names every option"


def test_an_option_whose_default_is_not_neutral_makes_a_new_product() -> None:
    class Mixed(Training):
        mixup: float = added(0.0, default=0.2)
        """Strength of mixup."""

    assert Mixed().content() != Training().content()
    assert Mixed(mixup=0.0).content() == Training().content()


def test_a_renamed_option_is_read_by_its_former_name_and_keeps_the_key() -> None:
    assert Later(rate=0.5).learning_rate == 0.5
    assert Later(learning_rate=0.5).content() == Training(rate=0.5).content() == Later(rate=0.5).content()
    assert "rate" not in Later(rate=0.5).recorded()
    with pytest.raises(ValidationError, match="rate is the former name of learning_rate, and both are set"):
        Later(rate=0.5, learning_rate=0.6)


def test_recorded_options_of_older_versions_are_read_with_a_message() -> None:
    lines: list[str] = []
    found = Later.from_recorded({**Training(rate=0.7).recorded(), "momentum": 0.9}, lines.append)
    assert (found.learning_rate, found.epochs, found.mixup) == (0.7, 30, 0.0)
    assert lines == ["The recorded option momentum = 0.9 no longer exists and is left out."]
    for recorded, changed in itertools.product(("rate", "learning_rate"), repeat=2):
        changes: dict[str, Any] = {changed: 0.2}
        assert Later.from_recorded({recorded: 0.7}, silent, **changes).learning_rate == 0.2, (recorded, changed)


def test_a_raw_configuration_is_read_under_every_name_of_an_option() -> None:
    assert Later.find({"rate": 0.7}, "learning_rate", 0.1) == 0.7
    assert Later.find({"learning_rate": 0.7, "rate": None}, "learning_rate", 0.1) == 0.7
    assert Later.find({"epochs": 3}, "learning_rate", 0.1) == 0.1
    assert Later.find({"epochs": 0}, "epochs", 30) == 0


def test_what_is_wrong_with_options_is_said_in_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Later(epochs="many", momentum=1)  # type: ignore[arg-type, call-arg]
    said = wrong_options(caught.value)
    assert "\n" not in said
    assert said.startswith("epochs (Input should be a valid integer")
    assert "momentum (Extra inputs are not permitted)" in said


def test_options_that_change_how_and_not_what_are_no_content_in_classes_below() -> None:
    class Faster(Training):
        not_content: ClassVar[frozenset[str]] = frozenset({"workers"})
        workers: int = 2
        """Processes."""

    assert Faster(threads=3, workers=4).content() == Training().content()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        Training(momentum=0.9)  # type: ignore[call-arg]


class LaterConfig(Later, AssetConfig):
    """In the graph."""


def test_dagster_takes_a_former_name_and_the_launchpad_describes_all(tmp_path: Path) -> None:
    seen: list[LaterConfig] = []

    @dg.asset
    def trained(config: LaterConfig) -> None:
        seen.append(config)

    field: Any = trained.op.config_field
    assert field is not None
    described = {name: each.description for name, each in field.config_type.fields.items()}
    assert described["mixup"] == "Strength of mixup; 0 does not mix."
    assert described["rate"] == "Former name of `learning_rate`."
    assert all(described.values())
    for config in ({"rate": 0.5}, {"learning_rate": 0.5}, {"rate": 0.5, "mixup": 0.0}):
        assert dg.materialize([trained], run_config={"ops": {"trained": {"config": config}}}).success
    assert [config.learning_rate for config in seen] == [0.5, 0.5, 0.5]
