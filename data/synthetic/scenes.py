"""Motions: how the moving bodies of a scene travel through one clip.

Every motion is a small physics problem in the unit square (x right, y down, one image width = 1) that
lasts one unit of time, so a scene fills its clip whatever the number of frames. pymunk integrates
gravity, friction, joints, springs and collisions; orbits are a closed form. Physics sees every body as
a disc, never its outline, so the shape that is drawn cannot tell the motion.

Four pairs are time reversals of each other: `roll_left`, `speed_up`, `rise` and `orbit_counterclockwise`
are simulated as their partner and played backwards. Both members of a pair therefore have the same
distribution of single frames, and only the order of the frames tells them apart. `cross` starts from the
states that `collide` starts from, with collisions switched off.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pymunk

MOTIONS: tuple[str, ...] = (
    "roll_left",
    "roll_right",
    "slide_to_rest",
    "speed_up",
    "fall",
    "rise",
    "bounce",
    "projectile",
    "collide",
    "cross",
    "pendulum",
    "orbit_clockwise",
    "orbit_counterclockwise",
    "spring",
    "topple",
    "occlude",
)
"""The classes of the label `motion`."""

REVERSALS: dict[str, str] = {
    "roll_left": "roll_right",
    "speed_up": "slide_to_rest",
    "rise": "fall",
    "orbit_counterclockwise": "orbit_clockwise",
}
"""A motion that is its partner played backwards -> that partner."""

PAIRED: frozenset[str] = frozenset({"collide", "cross"})
"""Motions of two bodies; all others have one."""

_SCALE = 100.0  # pymunk's collision slop and sleeping thresholds suit bodies tens of units large
_STEPS = 120  # integration steps per clip, at least


@dataclass(frozen=True)
class Trajectory:
    """Where the moving bodies are, frame by frame."""

    centres: np.ndarray
    """float64 (T, movers, 2): x, y in image widths."""
    angles: np.ndarray
    """float64 (T, movers): rotation in radians since the first frame, clockwise on the screen."""
    pillar: float | None = None
    """x of the pillar that hides the path half-way; None: the scene needs none."""

    def reversed(self) -> "Trajectory":
        """The same scene played backwards."""
        return Trajectory(self.centres[::-1].copy(), self.angles[::-1].copy(), self.pillar)


def movers(motion: str) -> int:
    """How many bodies take part in `motion`."""
    return 2 if motion in PAIRED else 1


def simulate(motion: str, radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """One random scene of class `motion`; `radii` in image widths, one per mover."""
    if motion in REVERSALS:
        return simulate(REVERSALS[motion], radii, frames, rng).reversed()
    return _SCENES[motion](radii, frames, rng)


# ---------------------------------------------------------------------------------------- building blocks


def _space(gravity: float = 0.0) -> pymunk.Space:
    space = pymunk.Space()
    space.gravity = (0.0, gravity * _SCALE)
    space.iterations = 12
    return space


def _disc(space: pymunk.Space, at: tuple[float, float], radius: float, *, spins: bool = True) -> pymunk.Body:
    """A disc of mass 1 whatever its size; `spins=False` slides without turning."""
    moment = 0.5 * (radius * _SCALE) ** 2 if spins else math.inf
    body = pymunk.Body(1.0, moment)
    body.position = (at[0] * _SCALE, at[1] * _SCALE)
    shape = pymunk.Circle(body, radius * _SCALE)
    shape.friction, shape.elasticity = 1.0, 1.0
    space.add(body, shape)
    return body


def _floor(space: pymunk.Space, y: float, *, friction: float = 0.0, elasticity: float = 0.0) -> None:
    """A thick invisible floor whose surface is at `y`."""
    thickness = 20.0
    floor = pymunk.Segment(space.static_body, (-1e4, y * _SCALE + thickness), (1e4, y * _SCALE + thickness), thickness)
    floor.friction, floor.elasticity = friction, elasticity
    space.add(floor)


def _hang(space: pymunk.Space, body: pymunk.Body, pivot: tuple[float, float]) -> None:
    """A rigid rod without mass from the body to a pivot, as for a body that is small against the rod."""
    body.moment = 1e-3
    joint = pymunk.PivotJoint(space.static_body, body, (pivot[0] * _SCALE, pivot[1] * _SCALE))
    joint.error_bias = 0.0  # what a step leaves of the length error is corrected in the next one, all of it
    space.add(joint)


def _play(space: pymunk.Space, bodies: list[pymunk.Body], frames: int) -> Trajectory:
    """Integrate over one unit of time and note the bodies at each frame."""
    substeps = max(2, math.ceil(_STEPS / (frames - 1)))
    step = 1.0 / ((frames - 1) * substeps)
    states = np.empty((frames, len(bodies), 3))
    for frame in range(frames):
        for number, body in enumerate(bodies):
            x, y = body.position
            states[frame, number] = x, y, body.angle
        if frame < frames - 1:
            for _ in range(substeps):
                space.step(step)
    return Trajectory(states[..., :2] / _SCALE, states[..., 2] - states[0, :, 2])


def _within(rng: np.random.Generator, radius: float, extent: float = 0.0) -> float:
    """Start of an interval of length `extent` that keeps a body of `radius` inside the image."""
    return float(rng.uniform(radius, max(radius, 1.0 - radius - extent)))


def _travel(rng: np.random.Generator, radius: float) -> float:
    """Length of a straight path: half the image or more, as far as the body fits."""
    return float(rng.uniform(0.45, min(0.65, 1.0 - 2.0 * radius)))


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _mirror(trajectory: Trajectory, sign: int) -> Trajectory:
    """The scene as it is (sign 1), or seen in a mirror (sign -1)."""
    if sign > 0:
        return trajectory
    centres = trajectory.centres * np.array([-1.0, 1.0]) + np.array([1.0, 0.0])
    return Trajectory(centres, -trajectory.angles, None if trajectory.pillar is None else 1.0 - trajectory.pillar)


# ------------------------------------------------------------------------------------------------- scenes


def _roll_right(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Rolls on a floor without slipping: constant speed, spin = speed / radius."""
    radius, travel = radii[0], _travel(rng, radii[0])
    x, y = _within(rng, radius, travel), _within(rng, radius)
    space = _space(gravity=1.0)
    _floor(space, y + radius, friction=1.0)
    body = _disc(space, (x, y), radius)
    body.velocity, body.angular_velocity = (travel * _SCALE, 0.0), travel / radius
    return _play(space, [body], frames)


def _slide_to_rest(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Friction stops a sliding body: v = 2 d / t, deceleration 2 d / t^2, then it lies still."""
    radius, travel, stop = radii[0], _travel(rng, radii[0]), float(rng.uniform(0.7, 0.95))
    x, y, sign = _within(rng, radius, travel), _within(rng, radius), _sign(rng)
    gravity = 2.0
    space = _space(gravity)
    _floor(space, y + radius, friction=2.0 * travel / stop**2 / gravity)
    body = _disc(space, (x, y), radius, spins=False)
    body.velocity = (2.0 * travel / stop * _SCALE, 0.0)
    return _mirror(_play(space, [body], frames), sign)


def _fall(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Free fall from rest: d = g / 2."""
    radius, travel = radii[0], _travel(rng, radii[0])
    x, y = _within(rng, radius), _within(rng, radius, travel)
    space = _space(gravity=2.0 * travel)
    return _play(space, [_disc(space, (x, y), radius)], frames)


def _bounce(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Drops onto a floor and bounces, two hits or three; the clip begins anywhere in the first arc."""
    radius = radii[0]
    height = float(rng.uniform(0.4, min(0.6, 1.0 - 2.0 * radius)))
    top = _within(rng, radius, height)
    drift = float(rng.uniform(0.0, 0.25))
    x, sign = _within(rng, radius, drift), _sign(rng)
    fall_time = float(rng.uniform(0.24, 0.32))
    gravity = 2.0 * height / fall_time**2
    phase = float(rng.uniform(-0.8, 0.8)) * fall_time  # time since the top of the arc
    space = _space(gravity)
    _floor(space, top + height + radius, elasticity=float(rng.uniform(0.8, 0.92)))
    body = _disc(space, (x, top + gravity * phase**2 / 2.0), radius, spins=False)
    body.velocity = (drift * _SCALE, gravity * phase * _SCALE)
    return _mirror(_play(space, [body], frames), sign)


def _projectile(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Thrown sideways and up: a parabola with its top near the middle of the clip."""
    radius, travel, top_time = radii[0], _travel(rng, radii[0]), float(rng.uniform(0.45, 0.55))
    height = float(rng.uniform(0.3, 0.42))
    gravity = 2.0 * height / top_time**2
    drop = gravity * (1.0 - top_time) ** 2 / 2.0
    top = _within(rng, radius, max(height, drop))
    x, sign = _within(rng, radius, travel), _sign(rng)
    space = _space(gravity)
    body = _disc(space, (x, top + height), radius)
    body.velocity = (travel * _SCALE, -gravity * top_time * _SCALE)
    return _mirror(_play(space, [body], frames), sign)


def _meet(radii: tuple[float, ...], frames: int, rng: np.random.Generator, *, touch: bool) -> Trajectory:
    """Two bodies of equal mass approach; they hit elastically, or one passes in front of the other."""
    first, second = radii
    reach = first + second
    both, sign, turn = rng.random() < 0.5, _sign(rng), float(rng.uniform(-0.35, 0.35))
    left, meeting = first + float(rng.uniform(0.0, 0.05)), float(rng.uniform(0.48, 0.58))
    right = 1.0 - second - float(rng.uniform(0.0, 0.05))
    if not both:  # The second rests; when it is hit, the time that is left takes it to the rim of the image.
        pace = (1.0 - meeting) / meeting
        right = (right + pace * (left + reach)) / (1.0 + pace)
    speed = (right - left - reach) / meeting
    share = float(rng.uniform(0.45, 0.55)) if both else 1.0
    offset = float(rng.uniform(-0.2, 0.2)) * reach
    middle = _within(rng, 0.32)
    space = _space()
    bodies = []
    for x, y, velocity, radius in (
        (left, -offset / 2.0, share * speed, first),
        (right, offset / 2.0, (share - 1.0) * speed, second),
    ):
        # The line of approach is tilted about the middle of the image.
        along, across = x - 0.5, y
        at = (0.5 + along * math.cos(turn) - across * math.sin(turn), along * math.sin(turn) + across * math.cos(turn))
        body = _disc(space, (at[0], middle + at[1] * 0.7), radius, spins=False)
        body.velocity = (velocity * math.cos(turn) * _SCALE, velocity * math.sin(turn) * 0.7 * _SCALE)
        bodies.append(body)
    if not touch:
        for shape in space.shapes:
            shape.filter = pymunk.ShapeFilter(group=1)
    return _mirror(_play(space, bodies, frames), sign)


def _collide(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    return _meet(radii, frames, rng, touch=True)


def _cross(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    return _meet(radii, frames, rng, touch=False)


def _pendulum(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Swings below a pivot on a rigid, invisible rod, from any phase, in either direction."""
    radius, swing = radii[0], float(rng.uniform(0.9, 1.3))
    length = min(float(rng.uniform(0.34, 0.46)), (0.5 - radius) / math.sin(swing))
    across, depth = length * math.sin(swing), length * (1.0 - math.cos(swing))
    pivot = (_within(rng, radius, 2.0 * across) + across, _within(rng, radius, depth) + depth - length)
    angle = swing * math.cos(float(rng.uniform(0.0, math.pi)))
    gravity = length * (2.0 * math.pi / float(rng.uniform(0.65, 1.0))) ** 2
    spin = _sign(rng) * math.sqrt(2.0 * gravity / length * max(0.0, math.cos(angle) - math.cos(swing)))
    space = _space(gravity)
    at = (pivot[0] + length * math.sin(angle), pivot[1] + length * math.cos(angle))
    body = _disc(space, at, radius)
    body.velocity = (spin * length * math.cos(angle) * _SCALE, -spin * length * math.sin(angle) * _SCALE)
    body.angular_velocity = -spin
    _hang(space, body, pivot)
    return _play(space, [body], frames)


def _orbit_clockwise(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """A circle at constant speed, clockwise on the screen (y points down): closed form."""
    radius = radii[0]
    reach = float(rng.uniform(0.2, min(0.3, 0.5 - radius)))
    centre = np.array([_within(rng, radius, 2.0 * reach), _within(rng, radius, 2.0 * reach)]) + reach
    turns, start = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.0, 2.0 * math.pi))
    phase = start + 2.0 * math.pi * turns * np.linspace(0.0, 1.0, frames)
    centres = centre + reach * np.stack([np.cos(phase), np.sin(phase)], axis=-1)
    return Trajectory(centres[:, None], np.zeros((frames, 1)))


def _spring(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Swings to and fro on a straight line through an undamped spring, from any phase."""
    radius = radii[0]
    reach = float(rng.uniform(0.22, min(0.32, 0.5 - radius)))
    direction = float(rng.uniform(0.0, math.pi))
    axis = np.array([math.cos(direction), math.sin(direction)])
    extent = 2.0 * reach * np.abs(axis)
    rest = np.array([_within(rng, radius, extent[0]), _within(rng, radius, extent[1])]) + extent / 2.0
    rate, phase = 2.0 * math.pi / float(rng.uniform(0.55, 0.9)), float(rng.uniform(0.0, 2.0 * math.pi))
    at = rest + reach * math.cos(phase) * axis
    velocity = -reach * rate * math.sin(phase) * axis * _SCALE
    space = _space()
    body = _disc(space, (float(at[0]), float(at[1])), radius, spins=False)
    body.velocity = (float(velocity[0]), float(velocity[1]))
    anchor = (float(rest[0]) * _SCALE, float(rest[1]) * _SCALE)
    space.add(pymunk.DampedSpring(space.static_body, body, anchor, (0.0, 0.0), 0.0, rate**2, 0.0))
    return _play(space, [body], frames)


def _topple(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Stands nearly upright on an edge far below its centre, tips over faster and faster, lies still."""
    radius = radii[0]
    length = float(rng.uniform(0.32, 0.46))
    x, y, sign = _within(rng, radius, length), _within(rng, radius, length) + length, _sign(rng)
    lean, duration = float(rng.uniform(0.1, 0.25)), float(rng.uniform(0.75, 0.95))
    space = _space(gravity=length)
    body = _disc(space, (x + length * math.sin(lean), y - length * math.cos(lean)), radius)
    _hang(space, body, (x, y))
    states = [(*body.position, body.angle)]
    while body.angle < math.pi / 2.0 - lean and len(states) < 1000:
        space.step(0.04)
        states.append((*body.position, body.angle))
    # Gravity only sets the pace: play the fall at the pace that takes `duration`.
    track = np.array(states)
    times = np.linspace(0.0, duration, len(track))
    sampled = np.stack([np.interp(np.linspace(0.0, 1.0, frames), times, column) for column in track.T], axis=-1)
    return _mirror(Trajectory(sampled[:, None, :2] / _SCALE, sampled[:, None, 2]), sign)


def _occlude(radii: tuple[float, ...], frames: int, rng: np.random.Generator) -> Trajectory:
    """Slides at constant speed and passes behind a pillar half-way."""
    radius, travel = radii[0], _travel(rng, radii[0])
    x, y, sign = _within(rng, radius, travel), _within(rng, radius), _sign(rng)
    space = _space()
    body = _disc(space, (x, y), radius, spins=False)
    body.velocity = (travel * _SCALE, 0.0)
    path = _play(space, [body], frames)
    return _mirror(Trajectory(path.centres, path.angles, x + travel * float(rng.uniform(0.42, 0.58))), sign)


_SCENES: dict[str, Callable[[tuple[float, ...], int, np.random.Generator], Trajectory]] = {
    "roll_right": _roll_right,
    "slide_to_rest": _slide_to_rest,
    "fall": _fall,
    "bounce": _bounce,
    "projectile": _projectile,
    "collide": _collide,
    "cross": _cross,
    "pendulum": _pendulum,
    "orbit_clockwise": _orbit_clockwise,
    "spring": _spring,
    "topple": _topple,
    "occlude": _occlude,
}
