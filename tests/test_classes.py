"""Classes by name: natural order, choice by name or number, labels of a second set."""

from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.datasets import classes
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from tests import tiny


def labelled(labels: list[int], names: list[str] | None) -> ImageDataset:
    return ImageDataset(tiny.images(len(labels)), np.array(labels, np.int32), {}, names, {}, Path("memory"))


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "10", "11"],
        ["class1b", "class2", "class10a"],
        ["1", "01", "2", "a", "a1", "a1b", "a2", "b"],
        ["1" * 5000, "2" * 5000, "1" * 5001],
        ["", "-", "²", "é", "日本"],
    ],
)
def test_numbers_in_names_count_as_numbers(names: list[str]) -> None:
    expected = sorted(names) if names[0] == "" else names
    if names[:2] == ["1", "01"]:
        expected = ["01", "1", *names[2:]]  # of equal numbers, as text
    assert classes.in_order([*reversed(names), names[0]]) == expected


def test_labels_by_name() -> None:
    assert classes.by_name(["b10", "a", "b9", "b10"]) == ([2, 0, 1, 2], ["a", "b9", "b10"])


def test_a_class_is_found_by_its_name_first() -> None:
    names = ["0", "1", "10", "11", "2"]
    assert [classes.find_label(text, names) for text in ("2", "10", "3", "4")] == [4, 2, 3, 4]
    assert classes.find_label("dog", ["cat", "dog"]) == 1
    assert classes.find_label("1", ["cat", "dog"]) == 1
    assert classes.find_label("7", None) == 7
    assert classes.find_label("7", None, count=8) == 7


def test_a_list_of_classes_in_its_parts() -> None:
    assert classes.listed("dog, 3,10-12", None) == ["dog", "3", "10", "11", "12"]
    assert classes.listed("1-2,1-3,t-shirt", ["1-2", "t-shirt"]) == ["1-2", "1", "2", "3", "t-shirt"]
    with pytest.raises(UserError, match="the range 3-1 runs backwards: write 1-3"):
        classes.listed("3-1", None)


@pytest.mark.parametrize(
    ("text", "names", "count", "message"),
    [
        ("2", ["cat", "dog"], None, "no class '2'; the classes are: 0 cat, 1 dog."),
        ("Cat", ["cat", "dog"], None, "0 cat, 1 dog"),
        ("-1", ["cat", "dog"], None, "0 cat, 1 dog"),
        ("cat", None, None, "numbers from 0 on"),
        ("8", None, 8, "0 to 7"),
        ("²", None, 8, "0 to 7"),
        ("9" * 5000, None, None, "numbers from 0 on"),
        ("x", [str(i) for i in range(30)], None, "18, 19, and 10 more"),
    ],
)
def test_a_class_that_there_is_not(text: str, names: list[str] | None, count: int | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        classes.find_label(text, names, count)
    assert message in str(error.value)


def test_labels_of_another_set_follow_the_names() -> None:
    other = labelled([0, 1, 2, 2, 0], ["apple", "cherry", "lime"])
    mapped = classes.map_labels(other, ["apple", "banana", "cherry", "lime"], "folder:test")
    assert mapped.labels.tolist() == [0, 2, 3, 3, 0] and mapped.labels.dtype == np.int32
    assert mapped.missing == ["banana"]
    # Names without images do no harm.
    assert classes.map_labels(labelled([1, 1], ["x", "b"]), ["a", "b"], "folder:test").labels.tolist() == [1, 1]
    # 0.1.0 ordered 10 before 2.
    old = labelled([0, 1, 2], ["1", "10", "2"])
    assert classes.map_labels(old, ["1", "2", "10"], "folder:test").labels.tolist() == [0, 2, 1]


def test_labels_of_another_set_without_names_are_numbers() -> None:
    mapped = classes.map_labels(labelled([2, 0], None), ["a", "b", "c"], "x")
    assert (mapped.labels.tolist(), mapped.missing) == ([2, 0], ["b"])
    mapped = classes.map_labels(labelled([2, 0], ["a", "b", "c"]), None, "x", count=4)
    assert (mapped.labels.tolist(), mapped.missing) == ([2, 0], ["1", "3"])
    mapped = classes.map_labels(labelled([2, 0], None), None, "x")
    assert (mapped.labels.tolist(), mapped.missing) == ([2, 0], [])


@pytest.mark.parametrize(
    ("labels", "names", "first", "count", "message"),
    [
        (
            [0, 1],
            ["apple", "pear"],
            ["apple", "banana"],
            None,
            "does not have: 1 pear. The first set has 0 apple, 1 banana",
        ),
        ([0, 3], None, ["apple", "banana"], None, "does not have: 3."),
        ([0, 3], ["a", "b", "c", "d"], None, 3, "does not have: 3 d. The first set has 0 to 2."),
        ([0, 3], ["a"], ["a", "b", "c", "d"], None, "does not have: 3."),
    ],
)
def test_classes_that_the_first_set_lacks(
    labels: list[int], names: list[str] | None, first: list[str] | None, count: int | None, message: str
) -> None:
    with pytest.raises(UserError) as error:
        classes.map_labels(labelled(labels, names), first, "folder:test", count)
    assert message in str(error.value) and "folder:test has images of classes" in str(error.value)


def test_another_set_without_labels() -> None:
    with pytest.raises(UserError, match="folder:test has no labels"):
        classes.map_labels(tiny.dataset(), ["a"], "folder:test")


@pytest.mark.parametrize(
    ("names", "are"),
    [
        (["test", "train"], True),
        (["Train", "VAL", "dev", "validation", "eval", "valid"], True),
        (["train"], True),
        (["train", "bus"], False),
        ([], False),
        (None, False),
    ],
)
def test_no_probe_learns_splits(names: list[str] | None, are: bool) -> None:
    assert classes.are_splits(names) == are
    dataset = labelled([i % max(len(names or ()), 2) for i in range(8)], names)
    assert set(attribute_probe.targets_of(dataset)) == (set() if are else {"label"})
    assert set(attribute_probe.known(dataset)) == (set() if are else {"label"})
