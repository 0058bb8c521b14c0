import pytest

from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.errors import HarError
from har_assets.model.recipe import Recipe
from har_assets.model.sides import may_be_mirrored

OF_A_SIDE = ["turn_left", "Right hand", "SwipeLeft", "turnLeft", "lefthook", "handLeft2right", "LEFT", "SwipeLEFTNow"]
OF_A_SIDE += ["swiperight", "Swiping Left", "left-arm", "arm_L", "R hand", "Turning Counterclockwise", "rotateCW"]
OF_A_SIDE += ["leftward", "RightÜber", "step2right"]
OF_NONE = ["bright", "kick_ball", "frighten", "sit_upright", "BrightLight", "läuft", "cleft", "wright", "cleft_lip"]
OF_NONE += ["eat_leftovers", "clap", "roll", "pull_up", "一", "#20"]


@pytest.mark.parametrize("label", OF_A_SIDE)
def test_classes_of_a_side_are_not_mirrored(label: str) -> None:
    assert not may_be_mirrored(label)


@pytest.mark.parametrize("label", OF_NONE)
def test_other_classes_are_mirrored(label: str) -> None:
    assert may_be_mirrored(label, ["forehand/backhand"])


def test_hmdb51_is_mirrored_as_before() -> None:
    assert all(map(may_be_mirrored, HMDB51_CLASSES))


def test_a_configuration_names_pairs() -> None:
    pairs = ["forehand/backhand", "Zoom In/Zoom Out"]
    recipe = Recipe(mirror_pairs=pairs)
    recipe.check()
    for label in ("forehand", "TennisBackhand", "backhand_flat", "zoom_in", "ZoomOut"):
        assert may_be_mirrored(label)
        assert not may_be_mirrored(label, recipe.mirror_pairs)
    assert may_be_mirrored("zoom", pairs)
    assert may_be_mirrored("hand", pairs)
    assert "mirror_pairs" not in Recipe().content()  # what was trained without it is found again
    assert "mirror_pairs" in recipe.content()


@pytest.mark.parametrize("pair", ["forehand", "a/b/c", "/b", ""])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(HarError, match="write two names as forehand/backhand"):
        Recipe(mirror_pairs=[pair]).check()
