"""What the page claims in words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa.report.collect import Run, Score
from jepa.report.headline import comparison, health, main_score, reading


def score(encoder: str, value: float, task: str = "motion", probe: str = "linear", half: float = 0.03) -> Score:
    return Score(task, encoder, probe, value, value - half, value + half, 1000, 0.1, 0, "hash", 10)


def run(*scores: Score, **metrics: list[float]) -> Run:
    columns = {name: np.array(values) for name, values in metrics.items()}
    return Run(Path("r"), "r", {}, "", {}, {}, columns, scores, {}, (), ())


@pytest.mark.parametrize(
    ("other", "words"), [(0.4, "clearly above"), (0.47, "not clearly different from"), (0.6, "clearly below")]
)
def test_a_difference_is_claimed_only_if_the_intervals_part(other: float, words: str) -> None:
    assert comparison(score("pretrained", 0.5), score("random", other)) == words


def test_the_sentence_has_the_numbers_of_the_main_probe() -> None:
    text = reading(run(
        score("pretrained", 0.9, task="shape", probe="attentive"), score("pretrained", 0.3), score("random", 0.2),
        score("pretrained", 0.5, probe="attentive"), score("random", 0.2, probe="attentive"),
        score("pixels", 0.49, probe="attentive"), score("reconstruction", 0.4, probe="attentive"),
    ))  # fmt: skip
    assert "On motion, an attentive probe" in text
    assert "50.0 % accuracy (95 % interval 47.0 to 53.0, 1000 test clips; chance is 10.0 %)" in text
    assert "clearly above the encoder after reconstruction (40.0 %) and random weights (20.0 %)" in text
    assert "not clearly different from raw pixels (49.0 %)" in text


def test_an_encoder_without_the_main_probe_is_held_against_by_its_best() -> None:
    text = reading(run(
        score("pretrained", 0.5, probe="attentive"), score("pixels", 0.6), score("pixels", 0.4, probe="knn"),
        score("random", 0.2, probe="attentive"), score("random", 0.9),
    ))  # fmt: skip
    assert "clearly below raw pixels (60.0 % by a linear probe)" in text
    assert "clearly above random weights (20.0 %)" in text


def test_without_an_own_result_another_stands_for_the_run_under_its_name() -> None:
    only = run(score("random", 0.2))
    assert main_score(only) == only.scores[0]
    assert "on random weights reaches 20.0 %" in reading(only)


def test_without_results_the_command_is_named() -> None:
    assert "jepa probe --encoder r" in reading(run())


def test_health_names_collapse_and_leaves_out_what_is_not_finite() -> None:
    sound = run(step=[10, 20, 30], loss=[np.nan, 0.9, 0.5], effective_rank=[5, 20, 30])
    assert health(sound) == (
        "Over 30 steps the loss went from 0.900 to 0.500 "
        "and the effective rank of the target tokens went from 5.0 to 30.0."
    )
    metrics = dict(sound.metrics) | {"effective_rank": np.array([5.0, 2.0, 1.2])}
    assert "collapsed" in health(replace(sound, metrics=metrics))
    assert health(run()) == ""


def test_probes_and_tasks_that_tell_a_worse_story_are_named() -> None:
    main = (score("pretrained", 0.7, probe="attentive"), score("random", 0.5, probe="attentive"))
    worse = (
        score("pretrained", 0.45, probe="knn"), score("pixels", 0.6, probe="knn"), score("random", 0.2, probe="knn"),
        score("pretrained", 0.5), score("pixels", 0.52),
    )  # fmt: skip
    text = reading(run(*main, *worse))
    assert "But by nearest neighbours (45.0 %) it is clearly below raw pixels (60.0 %)." in text
    assert "a linear probe" not in text
    weak = reading(run(*main, score("pretrained", 0.12, task="shape"), score("random", 0.11, task="shape")))
    assert weak.endswith(
        "On shape, a linear probe (12.0 %) is not clearly above random weights (11.0 %) or chance (10.0 %)."
    )
    sound = reading(run(*main, score("pretrained", 0.5, task="shape"), score("random", 0.2, task="shape")))
    assert "shape" not in sound
    assert "But" not in sound


def test_only_results_on_the_same_data_are_compared() -> None:
    first, second = (score("pretrained", 0.5), score("random", 0.2)), (score("pretrained", 0.2), score("random", 0.2))
    easy, hard = (tuple(replace(s, data=d) for s in part) for part, d in ((first, "easy"), (second, "hard")))
    text = reading(run(*easy, *hard))
    assert "chance is 10.0 %), data easy. That is clearly above random weights (20.0 %)." in text
    assert "On motion (data hard), a linear probe (20.0 %) is not clearly above random weights (20.0 %)." in text
