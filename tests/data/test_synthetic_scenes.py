"""Every motion obeys its law (closed forms), and reversed motions are reversals that no single frame betrays."""

import numpy as np
import pytest

from jepa.data.synthetic.scenes import MOTIONS, PAIRED, REVERSALS, Trajectory, movers, simulate

FRAMES = 33
TIME = np.linspace(0.0, 1.0, FRAMES)


def play(motion: str, seed: int, frames: int = FRAMES) -> Trajectory:
    radii = (0.12, 0.11)[: movers(motion)]
    return simulate(motion, radii, frames, np.random.default_rng(seed))


def main(motion: str, seed: int) -> np.ndarray:
    """(FRAMES, 2) path of the only body."""
    return play(motion, seed).centres[:, 0]


@pytest.fixture(params=range(6))
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("motion", MOTIONS)
def test_bodies_travel_a_third_of_the_image_and_stay_in_it(motion: str) -> None:
    for seed in range(25):
        centres = play(motion, seed, frames=16).centres
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
        assert steps.sum() > 1 / 3
        assert centres.min() > 0.04
        assert centres.max() < 0.96
        assert steps.max() < 0.3  # not so fast that it cannot be followed


@pytest.mark.parametrize("motion", MOTIONS)
def test_scene_does_not_depend_on_the_number_of_frames(motion: str) -> None:
    coarse, fine = play(motion, 3, frames=9), play(motion, 3, frames=33)
    np.testing.assert_allclose(coarse.centres, fine.centres[::4], atol=0.03)


def test_roll_has_constant_speed_and_does_not_slip(seed: int) -> None:
    for motion, sign in (("roll_right", 1), ("roll_left", -1)):
        path = play(motion, seed)
        x, y = path.centres[:, 0].T
        velocity = np.diff(x) * (FRAMES - 1)
        assert np.all(sign * velocity > 0.4)
        np.testing.assert_allclose(velocity, velocity.mean(), rtol=0.02)
        np.testing.assert_allclose(y, y[0], atol=0.005)
        turned = path.angles[:, 0] - path.angles[0, 0]
        np.testing.assert_allclose(turned, (x - x[0]) / 0.12, atol=0.1)  # radius 0.12; clockwise when rightwards


def test_slide_decelerates_to_rest_and_its_reversal_starts_from_rest(seed: int) -> None:
    speed = np.abs(np.diff(main("slide_to_rest", seed)[:, 0])) * (FRAMES - 1)
    moving = speed[: int(0.6 * FRAMES)]
    change = np.diff(moving)
    np.testing.assert_allclose(change, change.mean(), rtol=0.15)  # Coulomb friction: constant deceleration
    assert change.mean() < 0
    assert speed[-1] < 0.02 * speed[0]
    reversed_speed = np.abs(np.diff(main("speed_up", seed)[:, 0]))
    assert reversed_speed[0] < 0.02 * reversed_speed[-1]
    assert np.all(np.diff(reversed_speed) > -1e-4)


def test_slide_goes_either_way() -> None:
    for motion in ("slide_to_rest", "speed_up", "projectile", "occlude", "topple"):
        signs = {np.sign(path[-1, 0] - path[0, 0]) for path in (main(motion, seed) for seed in range(20))}
        assert signs == {-1.0, 1.0}


def test_fall_is_free_fall_from_rest_and_rise_its_reversal(seed: int) -> None:
    y = main("fall", seed)[:, 1]
    np.testing.assert_allclose(y, y[0] + (y[-1] - y[0]) * TIME**2, atol=0.01)
    up = main("rise", seed)[:, 1]
    np.testing.assert_allclose(up, up[-1] + (up[0] - up[-1]) * (1 - TIME) ** 2, atol=0.01)
    assert y[-1] - y[0] > 0.4
    assert up[0] - up[-1] > 0.4


def test_bounce_turns_at_one_floor_and_falls_in_between(seed: int) -> None:
    y = play("bounce", seed, frames=129).centres[:, 0, 1]
    velocity = np.diff(y)
    hits = np.flatnonzero((velocity[:-1] > 0) & (velocity[1:] < 0)) + 1
    assert len(hits) >= 2
    np.testing.assert_allclose(y[hits], y.max(), atol=0.03)
    between = np.diff(velocity[hits[0] + 2 : hits[1] - 2])
    np.testing.assert_allclose(between, between.mean(), rtol=0.01)  # gravity only
    assert between.mean() > 0


def test_projectile_is_a_parabola(seed: int) -> None:
    x, y = main("projectile", seed).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], rtol=1e-6)
    acceleration = np.diff(y, 2)
    np.testing.assert_allclose(acceleration, acceleration[0], rtol=1e-5)
    assert acceleration[0] > 0
    assert 10 < np.argmin(y) < 23


def test_collision_keeps_momentum_and_energy_and_changes_courses(seed: int) -> None:
    velocity = np.diff(play("collide", seed).centres, axis=0)
    before, after = velocity[2], velocity[-2]
    np.testing.assert_allclose(before.sum(axis=0), after.sum(axis=0), atol=1e-3)  # equal masses
    np.testing.assert_allclose((before**2).sum(), (after**2).sum(), rtol=0.05)
    assert np.abs(after - before).max() > 0.3 * np.abs(before).max()


def test_cross_starts_like_collide_and_never_swerves(seed: int) -> None:
    hit, miss = play("collide", seed).centres, play("cross", seed).centres
    np.testing.assert_allclose(hit[:10], miss[:10], atol=1e-9)
    velocity = np.diff(miss, axis=0)
    np.testing.assert_allclose(velocity, np.broadcast_to(velocity[0], velocity.shape), atol=1e-9)
    gap = np.linalg.norm(miss[:, 0] - miss[:, 1], axis=-1)
    assert gap.min() < 0.23  # they do pass over each other
    assert np.linalg.norm(hit[:, 0] - hit[:, 1], axis=-1).min() > 0.21


def test_pendulum_hangs_on_a_rod_and_keeps_its_energy(seed: int) -> None:
    path = play("pendulum", seed)
    centre, length = fitted_circle(path.centres[:, 0])
    rod = path.centres[:, 0] - centre
    np.testing.assert_allclose(np.linalg.norm(rod, axis=-1), length, rtol=0.01)
    assert np.all(rod[:, 1] > 0)  # below the pivot
    turned = np.unwrap(np.arctan2(rod[:, 1], rod[:, 0]))
    np.testing.assert_allclose(path.angles[:, 0], turned - turned[0], atol=0.02)
    spin = np.gradient(turned, TIME)
    inner = slice(2, -2)
    slope, _ = np.polyfit(rod[inner, 1], spin[inner] ** 2, 1)  # w^2 = 2 g (y - y_top) / L^2
    assert slope > 0
    assert np.corrcoef(rod[inner, 1], spin[inner] ** 2)[0, 1] > 0.95


@pytest.mark.parametrize(("motion", "sign"), [("orbit_clockwise", 1), ("orbit_counterclockwise", -1)])
def test_orbit_is_a_circle_at_constant_speed(motion: str, sign: int, seed: int) -> None:
    path = main(motion, seed)
    centre, radius = fitted_circle(path)
    np.testing.assert_allclose(np.linalg.norm(path - centre, axis=-1), radius, rtol=1e-6)
    turned = np.diff(np.unwrap(np.arctan2(*(path - centre).T[::-1])))
    assert np.all(sign * turned > 0)  # y points down: growing angles are clockwise
    np.testing.assert_allclose(turned, turned[0], rtol=1e-6)


def test_spring_is_harmonic_on_a_line(seed: int) -> None:
    path = play("spring", seed, frames=121).centres[:, 0]
    axis = np.linalg.svd(path - path.mean(axis=0))[2]
    assert np.abs((path - path.mean(axis=0)) @ axis[1]).max() < 1e-3
    along = path @ axis[0]
    slope, offset = np.polyfit(along[1:-1], np.diff(along, 2), 1)  # x'' = -k (x - rest)
    assert slope < 0
    np.testing.assert_allclose(np.diff(along, 2), slope * along[1:-1] + offset, atol=2e-4)


def test_topple_turns_about_its_edge_faster_and_faster_and_lies_still(seed: int) -> None:
    path = play("topple", seed)
    x, y = path.centres[:, 0].T
    centre, length = fitted_circle(path.centres[:, 0])
    np.testing.assert_allclose(np.hypot(x - centre[0], y - centre[1]), length, rtol=0.01)
    spin = np.abs(np.diff(path.angles[:, 0]))
    peak = int(np.argmax(spin))
    assert peak > FRAMES // 2
    assert np.all(np.diff(spin[:peak]) > -1e-3)
    assert spin[-1] < 1e-6
    assert abs(y[-1] - centre[1]) < 0.15 * length  # lies level with the edge


def test_occluded_body_moves_evenly_behind_the_pillar(seed: int) -> None:
    path = play("occlude", seed)
    x = path.centres[:, 0, 0]
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], rtol=1e-6)
    assert path.pillar is not None
    assert min(x) + 0.1 < path.pillar < max(x) - 0.1


@pytest.mark.parametrize("motion", sorted(set(MOTIONS) - {"occlude"}))
def test_only_occlude_needs_a_pillar(motion: str) -> None:
    assert play(motion, 0).pillar is None


@pytest.mark.parametrize(("motion", "partner"), list(REVERSALS.items()))
def test_reversed_pairs_have_the_same_single_frames(motion: str, partner: str) -> None:
    """Pooled over frames, positions and the ends of the path are distributed alike (independent seeds)."""
    ours = np.stack([play(motion, seed, 16).centres[:, 0] for seed in range(120)])
    theirs = np.stack([play(partner, 1000 + seed, 16).centres[:, 0] for seed in range(120)])
    np.testing.assert_allclose(ours.mean(axis=(0, 1)), theirs.mean(axis=(0, 1)), atol=0.04)
    np.testing.assert_allclose(ours.std(axis=(0, 1)), theirs.std(axis=(0, 1)), atol=0.03)
    for axis in range(2):
        grid = np.linspace(0.0, 1.0, 50)
        cumulative = [np.searchsorted(np.sort(p[..., axis].ravel()), grid) / p[..., axis].size for p in (ours, theirs)]
        assert np.abs(cumulative[0] - cumulative[1]).max() < 0.15


@pytest.mark.parametrize(("motion", "partner"), list(REVERSALS.items()))
def test_reversal_is_the_partner_played_backwards(motion: str, partner: str) -> None:
    forwards, backwards = play(partner, 7), play(motion, 7)
    np.testing.assert_array_equal(backwards.centres, forwards.centres[::-1])
    np.testing.assert_array_equal(backwards.angles, forwards.angles[::-1])
    assert not np.allclose(forwards.centres, forwards.centres[::-1], atol=0.1)


def test_pairs_are_the_motions_of_two_bodies() -> None:
    assert {motion for motion in MOTIONS if play(motion, 0).centres.shape[1] == 2} == PAIRED


def fitted_circle(path: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares (Kasa): x^2 + y^2 = 2 a x + 2 b y + c."""
    design = np.concatenate([2 * path, np.ones((len(path), 1))], axis=1)
    a, b, c = np.linalg.lstsq(design, (path**2).sum(axis=1), rcond=None)[0]
    return np.array([a, b]), float(np.sqrt(c + a * a + b * b))
