"""Accuracy by the tags in HMDB51's file names."""

from har_assets.report.tags import NOT_TAGGED, tag_rows


def test_tags_are_read_from_the_names_in_a_fixed_order() -> None:
    clips = [
        "run/TrumanShow_run_f_nm_np1_ba_med_19.avi",
        "run/a_run_u_cm_np2_fr_goo_0.avi",
        "run/a_run_u_cm_np10_le_bad_1.avi",
        "run/holiday.avi",
    ]
    rows = tag_rows(clips, ["run"] * 4, [True, False, True, False], ["TrumanShow", "a", "a", "holiday"])
    assert [(row.tag, row.value, row.top1.videos) for row in rows] == [
        ("Visible body", "full", 1),
        ("Visible body", "upper", 2),
        ("Visible body", NOT_TAGGED, 1),
        ("Camera", "moves", 2),
        ("Camera", "does not move", 1),
        ("Camera", NOT_TAGGED, 1),
        ("People", "1", 1),
        ("People", "2", 1),
        ("People", "10", 1),
        ("People", NOT_TAGGED, 1),
        ("Seen from", "the front", 1),
        ("Seen from", "the left", 1),
        ("Seen from", "behind", 1),
        ("Seen from", NOT_TAGGED, 1),
        ("Quality", "good", 1),
        ("Quality", "medium", 1),
        ("Quality", "bad", 1),
        ("Quality", NOT_TAGGED, 1),
    ]
    assert rows[1].top1.value == 0.5
    assert rows[1].top1.films == 1


def test_names_of_ones_own_have_no_tags() -> None:
    assert tag_rows(["<b>/one.avi", "<b>/two.avi"], ["<b>"] * 2, [True, False], ["one", "two"]) == []
