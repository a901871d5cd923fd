from __future__ import annotations

import pytest

from nnunet_topomae.evaluation.classes import Classes

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [3], "edge": 2, "ignore": 4}


def test_regions_are_scored_as_nnunet_does():
    classes = Classes.of_dataset({"labels": REGIONS, "regions_class_order": [1, 2, 3]})
    assert classes.names == {(1, 2, 3): "whole", (3,): "core", 2: "edge"}
    assert classes.ignore_label == 4 and classes.values == {0, 1, 2, 3, 4}


def test_labels_may_be_lists_of_one_or_text():
    classes = Classes.of_dataset({"labels": {"background": "0", "a": [1], "b": "12", "c": 3}})
    assert classes.names == {1: "a", 3: "c", 12: "b"} and classes.ignore_label is None


def test_plans_may_name_a_label_manager():
    description = {"labels": {"background": 0, "a": 1}}
    assert Classes.of_dataset(description, {"label_manager": "LabelManager"}) == Classes.of_dataset(description)


def test_classes_are_chosen_by_name_number_or_numbers():
    classes = Classes.of_dataset({"labels": REGIONS, "regions_class_order": [1, 2, 3]})
    assert classes.choose(["edge", "whole", "3", "1,2", "(1, 3)"]).names == {
        2: "edge",
        (1, 2, 3): "whole",
        3: "3",
        (1, 2): "1,2",
        (1, 3): "(1, 3)",
    }
    for wrong, message in (
        ("5", "lists the values 0, 1, 2, 3, 4 alone"),
        ("1,9", "1,9"),
        ("", "no label"),
        ("4", "ign"),
    ):
        with pytest.raises(ValueError, match=message):
            classes.choose([wrong])


@pytest.mark.parametrize("labels", [{"a": 1}, {"background": 0, "a": "one"}, {"background": 0, "a": [1, 2]}, [1], None])
def test_what_nnunet_cannot_read_is_refused(labels):
    with pytest.raises(ValueError, match="nnU-Net cannot read the labels"):
        Classes.of_dataset({"labels": labels})
