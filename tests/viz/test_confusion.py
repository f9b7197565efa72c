import re
from xml.etree import ElementTree

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from jepa.viz.confusion import confusion, confusion_counts, hardest, worst_mistakes


def test_counts_agree_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(5, size=(2, 300))
    expected = multiclass_confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(truth), 5).numpy()
    np.testing.assert_array_equal(confusion_counts(truth, predicted, 5), expected)


def test_mistakes_are_ordered_by_their_share_of_the_true_class() -> None:
    counts = np.array([[8, 2, 0], [5, 5, 0], [0, 30, 70]])
    mistakes = worst_mistakes(counts, ["a", "b", "c"])
    assert [(m.truth, m.predicted, m.count, m.share) for m in mistakes] == [
        ("b", "a", 5, 0.5), ("c", "b", 30, 0.3), ("a", "b", 2, 0.2),
    ]  # fmt: skip


def test_only_the_worst_of_many_classes_are_kept() -> None:
    counts = np.diag([10, 1, 10, 2])
    counts[1, 0], counts[3, 0] = 9, 8
    assert hardest(counts, 2) == [1, 3]
    assert hardest(counts, 4) == [0, 1, 2, 3]


def test_the_drawing_is_xml_with_every_name_and_share() -> None:
    counts = np.array([[3, 1], [0, 4]])
    drawing = confusion(counts, ["a <b>", "c & d"], name="m", title="what & why")
    texts = [element.text for element in ElementTree.fromstring(drawing).iter() if element.text]
    assert {"a <b>", "c & d", "75", "25", "100", "what & why"} <= set(texts)
    assert "0" not in texts
    assert drawing == confusion(counts, ["a <b>", "c & d"], name="m", title="what & why")
    assert all(name.startswith("m-") for name in re.findall(r'\bid="([^"]*)"', drawing))


def test_an_empty_row_is_drawn_empty() -> None:
    assert "nan" not in confusion(np.array([[0, 0], [1, 1]]), ["a", "b"], name="m", title="t")
