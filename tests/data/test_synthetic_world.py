"""Clips are pure functions of (config, seed, index, split); looks do not tell motion; test looks are held out."""

from collections import Counter
from typing import Literal

import numpy as np
import pytest

from jepa.data.synthetic import world as world_module
from jepa.data.synthetic.scenes import MOTIONS, Trajectory, movers
from jepa.data.synthetic.shapes import COLOURS, SHAPES, TEXTURES, draw_hue, outline, pattern, rgb_of
from jepa.data.synthetic.world import SyntheticClip, WorldConfig, make_clip, motion_of
from jepa.errors import ConfigError

EASY, HARD = WorldConfig(), WorldConfig(world="hard")


def same(left: SyntheticClip, right: SyntheticClip) -> bool:
    arrays = ((left.frames, right.frames), (left.positions, right.positions), (left.instances, right.instances))
    return left.labels == right.labels and all(np.array_equal(a, b) for a, b in arrays)


@pytest.mark.parametrize("config", [EASY, HARD])
def test_any_clip_can_be_made_alone(config: WorldConfig) -> None:
    forwards = [make_clip(config, 0, index, "train") for index in range(6)]
    backwards = [make_clip(config, 0, index, "train") for index in reversed(range(6))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_seed_index_and_split_all_matter() -> None:
    clip = make_clip(EASY, 0, 5, "train")
    for other in (make_clip(EASY, 1, 5, "train"), make_clip(EASY, 0, 6, "train"), make_clip(EASY, 0, 5, "test")):
        assert not np.array_equal(clip.frames, other.frames)


def test_format() -> None:
    clip = make_clip(WorldConfig(world="hard", frames=9, size=64), 0, 2, "test")
    bodies = clip.labels["bodies"]
    assert clip.frames.shape == (9, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.instances.shape == (9, 64, 64)
    assert clip.instances.dtype == np.uint8
    assert clip.positions.shape == (9, bodies, 2)
    assert clip.positions.dtype == np.float32
    assert set(clip.labels) == {"motion", "shape", "colour", "texture", "bodies"}


def test_motions_are_balanced_and_their_order_is_random() -> None:
    motions = [motion_of(0, index, "train") for index in range(40 * len(MOTIONS))]
    assert set(Counter(motions).values()) == {40}
    blocks = [tuple(motions[start : start + len(MOTIONS)]) for start in range(0, len(motions), len(MOTIONS))]
    assert len(set(blocks)) == 40
    first = Counter(block[0] for block in blocks)
    assert max(first.values()) < 10  # the place in the block does not tell the class
    assert motions != [motion_of(0, index, "test") for index in range(len(motions))]


@pytest.mark.parametrize("config", [EASY, HARD])
def test_appearance_does_not_depend_on_motion(config: WorldConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clip with another motion looks the same: no stream of appearance knows the class."""
    looks = set()
    for motion in MOTIONS:
        monkeypatch.setattr(world_module, "motion_of", lambda *_, motion=motion: motion)
        labels = make_clip(config, 0, 11, "train").labels
        assert labels["motion"] == motion
        looks.add((labels["shape"], labels["colour"], labels["texture"]))
    assert len(looks) == 1


@pytest.mark.parametrize(("label", "classes"), [("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES)])
def test_appearance_is_uniform_over_motions(
    label: str, classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chi-square of the table motion x appearance against independence and uniformity."""
    monkeypatch.setattr(world_module, "render", lambda *_: (np.zeros(0), np.zeros(0)))
    monkeypatch.setattr(world_module, "simulate", lambda motion, *_: Trajectory(*_still(movers(motion))))
    clips = 60 * len(MOTIONS)
    table = np.zeros((len(MOTIONS), len(classes)))
    for index in range(clips):
        labels = make_clip(EASY, 3, index, "train").labels
        table[MOTIONS.index(str(labels["motion"])), classes.index(str(labels[label]))] += 1
    expected = clips / table.size
    statistic = ((table - expected) ** 2 / expected).sum()
    freedom = len(MOTIONS) * (len(classes) - 1)
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
    assert statistic > freedom - 5 * np.sqrt(2 * freedom)


def _still(bodies: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((16, bodies, 2), 0.5), np.zeros((16, bodies))


def test_test_split_holds_out_hues_shapes_and_textures() -> None:
    rng = np.random.default_rng(0)
    for family in range(len(COLOURS)):
        distance = {
            split: [abs((draw_hue(family, split, rng) - 60 * family + 180) % 360 - 180) for _ in range(200)]
            for split in ("train", "test")
        }
        assert max(distance["train"]) < min(distance["test"]) - 3
        assert max(distance["test"]) < 30  # still nearest to its own family
    u, v = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    for shape in SHAPES:
        train, test = outline(shape, "train"), outline(shape, "test")
        assert train.shape != test.shape or np.abs(train - test).max() > 0.1
    for texture in TEXTURES:
        assert np.abs(pattern(texture, "train", u, v) - pattern(texture, "test", u, v)).mean() > 0.1


@pytest.mark.parametrize("split", ["train", "test"])
def test_bodies_of_all_shapes_cover_similar_areas(split: Literal["train", "test"]) -> None:
    areas = {}
    for shape in SHAPES:
        x, y = outline(shape, split).T
        areas[shape] = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert max(areas.values()) < 2.0 * min(areas.values())


def test_colours_are_the_named_ones() -> None:
    named = {"red": (1, 0, 0), "yellow": (1, 1, 0), "green": (0, 1, 0), "cyan": (0, 1, 1), "blue": (0, 0, 1)}
    for name, rgb in {**named, "magenta": (1, 0, 1)}.items():
        np.testing.assert_allclose(rgb_of(60.0 * COLOURS.index(name), 1.0, 1.0), rgb, atol=1e-6)


def test_masks_and_positions_agree_with_the_pixels() -> None:
    checked = 0
    for index in range(48):
        clip = make_clip(EASY, 0, index, "train")
        if clip.labels["motion"] in ("occlude", "cross") or clip.labels["shape"] not in ("round", "cross", "bar"):
            continue
        rows, columns = np.mgrid[:40, :40] + 0.5
        for frame in (0, 8, 15):
            mask = clip.instances[frame] == 1
            x, y = clip.positions[frame, 0]
            if not 8 < x < 32 or not 8 < y < 32:
                continue  # cut by the rim
            assert abs(columns[mask].mean() - x) < 0.5
            assert abs(rows[mask].mean() - y) < 0.5
            inside = clip.frames[frame][mask].astype(int)
            outside = clip.frames[frame][clip.instances[frame] == 0].astype(int)
            assert abs(inside.max(axis=1).mean() - outside.max(axis=1).mean()) > 70  # bodies stand out
            assert np.ptp(outside, axis=1).mean() < 45  # the ground is nearly grey
            checked += 1
    assert checked > 15


def test_occluded_body_vanishes_and_comes_back() -> None:
    index = next(index for index in range(len(MOTIONS)) if motion_of(0, index, "train") == "occlude")
    area = (make_clip(EASY, 0, index, "train").instances == 1).sum(axis=(1, 2))
    hidden = int(np.argmin(area))
    assert 3 < hidden < 12
    assert area[hidden] < 0.4 * min(area[0], area[-1])


def test_easy_is_one_body_on_a_still_ground_and_hard_is_not() -> None:
    easy = [make_clip(EASY, 0, index, "train") for index in range(32)]
    hard = [make_clip(HARD, 0, index, "train") for index in range(32)]
    assert all(clip.labels["bodies"] == movers(str(clip.labels["motion"])) for clip in easy)
    assert {clip.labels["bodies"] for clip in hard} == {1, 2, 3, 4}

    def ground(clips: list[SyntheticClip], measure: str) -> float:
        values = []
        for clip in clips:
            still = (clip.instances == 0).all(axis=0)
            pixels = clip.frames[:, still].astype(float)
            values.append(np.ptp(pixels, axis=0).mean() if measure == "motion" else pixels.std(axis=1).mean())
        return float(np.mean(values))

    assert ground(easy, "motion") < 12
    assert ground(hard, "motion") > 2 * ground(easy, "motion")
    assert ground(hard, "texture") > 1.5 * ground(easy, "texture")


def test_bodies_are_lighter_or_darker_than_the_ground_alike() -> None:
    def brighter(config: WorldConfig) -> float:
        signs = []
        for index in range(40):
            clip = make_clip(config, 1, index, "train")
            frame, ids = clip.frames[0].max(axis=-1).astype(float), clip.instances[0]
            if (ids == 1).any():
                signs.append(frame[ids == 1].mean() > frame[ids == 0].mean())
        return float(np.mean(signs))

    assert 0.2 < brighter(EASY) < 0.8
    assert 0.2 < brighter(HARD) < 0.8


@pytest.mark.parametrize(
    ("wrong", "name"), [({"frames": 3}, "frames"), ({"size": 41}, "size"), ({"size": 8}, "size"), ({"fps": 0}, "fps")]
)
def test_numbers_out_of_range_are_named(wrong: dict[str, int], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} = "):
        WorldConfig(**wrong)  # type: ignore[arg-type]
