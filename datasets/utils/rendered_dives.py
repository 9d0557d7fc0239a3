"""Rendered dives: a stand-in for the diving videos of AQA-7 where the real frames are absent.

A dive is described by five judged quantities (:class:`Dives`). :func:`judge` turns them into a score by documented
arithmetic plus the noise of a panel of judges, and :func:`render` draws the same quantities into a short RGB clip, so
that the score can be learned from the picture and from nothing else. The scene is schematic: the platform stands
3 m above the water (not 10 m), so that the whole dive fits a small still camera, and the diver always enters head
first. Dives with half somersaults therefore start upright and dives with whole ones start from an armstand.
"""

from dataclasses import dataclass, fields

import numpy as np

SCORE_RANGE = (21.6, 102.6)  # lowest and highest diving score published for AQA-7
TAKE_OFF_RANGE = (1.3, 2.3)  # metres
ENTRY_ANGLE_RANGE = (0.0, 40.0)  # degrees
ROTATIONS = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
ROTATION_SHARES = np.array([0.10, 0.16, 0.18, 0.22, 0.17, 0.17])  # how often each number of somersaults is dived
N_JUDGES = 7

# Scene, in metres: x grows to the right from the edge of the platform, y upwards from the water.
VIEW = 7.0  # side of the square picture
VIEW_LEFT, VIEW_TOP = -2.0, 6.3
PLATFORM = 3.0
STANCE = 1.05  # hips above the platform at take-off, upright and in the armstand alike
TRAVEL = 2.0  # horizontal way of the hips from take-off to entry
GRAVITY = 9.81
TORSO, ARM, THIGH, SHANK = 0.62, 0.55, 0.52, 0.52
HEAD_RADIUS, TORSO_RADIUS, ARM_RADIUS, THIGH_RADIUS, SHANK_RADIUS = 0.17, 0.16, 0.08, 0.12, 0.09

# Times as fractions of the clip.
TAKE_OFF_TIME, ENTRY_TIME, SUBMERGED_TIME = 0.04, 0.72, 0.86
SPLASH_START, SPLASH_PEAK = 0.77, 0.90

JET_ANGLES = np.radians([-52.0, -26.0, 0.0, 26.0, 52.0])  # fan of water jets, from vertical
JET_LENGTHS = np.array([0.65, 0.9, 1.0, 0.9, 0.65])

CHUNK = 16  # clips drawn at once: small enough that the float planes of one stay in cache


@dataclass(frozen=True, eq=False)
class Dives:
    """The judged quantities of n dives, each an array of shape (n,).

    take_off: height of the hips above the platform at the apex of the flight, metres, 1.3..2.3
    rotations: somersaults, 1.0..3.5 in half steps
    body_line: 0 = hips and knees bent .. 1 = straight
    entry_angle: degrees between body and vertical at entry, 0..40
    splash: 0 = hardly any .. 1 = largest
    """

    take_off: np.ndarray
    rotations: np.ndarray
    body_line: np.ndarray
    entry_angle: np.ndarray
    splash: np.ndarray

    def __post_init__(self) -> None:
        shapes = {field.name: np.shape(getattr(self, field.name)) for field in fields(self)}
        if len(set(shapes.values())) != 1 or len(shapes["take_off"]) != 1 or shapes["take_off"][0] < 1:
            raise ValueError(f"the quantities of a dive need one shape (n,) with n >= 1, got {shapes}")

    def __len__(self) -> int:
        return len(self.take_off)


def _generator(seed: int, purpose: int) -> np.random.Generator:
    """Separate streams per purpose: with one seed for all, the background must not give away the dive."""
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose])))


def sample_dives(n: int, seed: int) -> Dives:
    """Draw n dives; the first m of them are the same for every n >= m."""
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    draws = _generator(seed, 0).random((n, 5))
    low, high = TAKE_OFF_RANGE
    take_off = low + (high - low) * draws[:, 0]
    rotations = ROTATIONS[np.searchsorted(np.cumsum(ROTATION_SHARES)[:-1], draws[:, 1], side="right")]
    body_line = draws[:, 2] ** 0.8  # straight bodies are a little more frequent than bent ones
    entry_angle = ENTRY_ANGLE_RANGE[1] * draws[:, 3] ** 1.3  # and so are steep entries
    splash = 0.5 * entry_angle / ENTRY_ANGLE_RANGE[1] + 0.2 * (1 - body_line) + 0.3 * draws[:, 4]
    return Dives(take_off, rotations, body_line, entry_angle, splash)


def difficulty(dives: Dives) -> np.ndarray:
    """Degree of difficulty, (n,): 1.55..3.375; more somersaults and a straighter position are harder."""
    return 0.9 + 0.65 * dives.rotations + 0.2 * dives.body_line


def execution(dives: Dives) -> np.ndarray:
    """Noise-free mark of one judge, (n,): 10 less deductions for a low, bent, tilted and splashing dive."""
    low, high = TAKE_OFF_RANGE
    lost_height = np.clip((high - dives.take_off) / (high - low), 0.0, 1.0)
    tilt = np.clip(dives.entry_angle / ENTRY_ANGLE_RANGE[1], 0.0, 1.0)
    return 10.0 - 1.2 * lost_height - 2.0 * (1.0 - dives.body_line) - 1.8 * tilt - 2.0 * dives.splash


def quality(dives: Dives) -> np.ndarray:
    """Noise-free score, float64 (n,), within SCORE_RANGE: three execution marks times the difficulty."""
    return np.clip(3.0 * execution(dives) * difficulty(dives), *SCORE_RANGE)


def judge(dives: Dives, seed: int, noise: float = 1.0) -> np.ndarray:
    """Score by a panel of seven judges, float32 (n,), within SCORE_RANGE.

    Each judge's mark is the execution plus normal noise of standard deviation `noise` (marks), rounded to half marks
    in 0..10. As in diving, the two highest and the two lowest marks are struck out and the sum of the other three is
    multiplied by the difficulty.
    """
    if noise < 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    errors = noise * _generator(seed, 1).standard_normal((len(dives), N_JUDGES))
    marks = np.clip(np.round(2.0 * (execution(dives)[:, None] + errors)) / 2.0, 0.0, 10.0)
    middle = np.sort(marks, axis=1)[:, 2:-2]
    return np.clip(middle.sum(axis=1) * difficulty(dives), *SCORE_RANGE).astype(np.float32)


def _along(angle: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 2) at an angle (radians) turned clockwise from straight up."""
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _joints(dives: Dives, time: np.ndarray) -> dict[str, np.ndarray]:
    """Joint positions (n, frames, 2) in metres at clip times (n, frames)."""
    take_off, rotations, body_line, tilt = (
        quantity[:, None]
        for quantity in (dives.take_off, dives.rotations, dives.body_line, np.radians(dives.entry_angle))
    )
    flight = np.clip((time - TAKE_OFF_TIME) / (ENTRY_TIME - TAKE_OFF_TIME), 0.0, 1.0)
    hips_at_entry = (TORSO + ARM) * np.cos(tilt)  # hands at the water
    rise = np.sqrt(2.0 * (take_off - STANCE) / GRAVITY)
    fall = np.sqrt(2.0 * (PLATFORM + take_off - hips_at_entry) / GRAVITY)
    height = PLATFORM + take_off - 0.5 * GRAVITY * (flight * (rise + fall) - rise) ** 2
    hips = np.stack([TRAVEL * flight - 0.15, height], axis=-1)

    # Half a turn stands for head down. The diver falls short of it by the entry angle, opens just before the water
    # and then slides in along the body.
    turn = 2.0 * np.pi * rotations
    trunk = np.pi - turn + (turn - tilt) * np.clip(flight / 0.94, 0.0, 1.0)
    sunk = np.clip((time - ENTRY_TIME) / (SUBMERGED_TIME - ENTRY_TIME), 0.0, 1.0)
    hips = hips + 2.6 * sunk[..., None] * _along(trunk)

    # A sloppy body is folded in flight and still partly folded at entry.
    fold = (1.0 - body_line) * np.interp(flight, [0.0, 0.15, 0.85, 1.0], [0.0, 1.0, 1.0, 0.45])
    thigh = trunk + np.pi - np.radians(115.0) * fold
    shank = thigh + np.radians(125.0) * fold
    shoulders = hips + TORSO * _along(trunk)
    knees = hips + THIGH * _along(thigh)
    return {
        "hips": hips,
        "shoulders": shoulders,
        "head": shoulders + HEAD_RADIUS * _along(trunk),
        "hands": shoulders + ARM * _along(trunk + np.radians(110.0) * fold),
        "knees": knees,
        "feet": knees + SHANK * _along(shank),
    }


def _capsule(
    x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray, radius: np.ndarray | float, metres: float
) -> np.ndarray:
    """Share of each pixel covered by rounded segments, (n, rows, columns), from the distance to the segment.

    x (n, 1, columns) and y (n, rows, 1) are pixel centres, start and end (n, 2); all in metres, `metres` per pixel.
    """
    start, end = start.astype(np.float32)[:, :, None, None], end.astype(np.float32)[:, :, None, None]
    dx, dy = x - start[:, 0], y - start[:, 1]
    ux, uy = end[:, 0] - start[:, 0], end[:, 1] - start[:, 1]
    square = np.maximum(ux**2 + uy**2, np.float32(1e-9))
    nearest = np.clip(dx * (ux / square) + dy * (uy / square), 0.0, 1.0)
    distance = np.sqrt((dx - nearest * ux) ** 2 + (dy - nearest * uy) ** 2)
    reach = np.asarray(radius, dtype=np.float32).reshape(-1, 1, 1) / metres + 0.5
    return np.clip(reach - distance / np.float32(metres), 0.0, 1.0)


def _paint(picture: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Lay a colour (n, 3) or (3,) over picture (n, 3, rows, columns) where cover (n, rows, columns) says so."""
    picture += cover[:, None] * (colour.astype(np.float32).reshape(-1, 3, 1, 1) - picture)


def _scenery(x: np.ndarray, y: np.ndarray, looks: np.ndarray, metres: float) -> np.ndarray:
    """Wall, water, platform and tower, float32 (n, 3, rows, columns), 0..255; looks (n, 2) are random phases."""
    phase = (2.0 * np.pi * looks).astype(np.float32)[:, :, None, None]
    shade = 1.0 + 0.05 * np.sin(1.7 * x + phase[:, 0]) + 0.05 * np.sin(1.1 * y + 0.6 * x + phase[:, 1])
    picture = np.empty((len(looks), 3, *shade.shape[1:]), dtype=np.float32)
    picture[:] = np.array([150.0, 172.0, 190.0], dtype=np.float32).reshape(1, 3, 1, 1) * shade[:, None]
    below = np.clip(0.5 - y / metres, 0.0, 1.0) * np.ones_like(x)
    _paint(picture, below, np.array([25.0, 85.0, 150.0]))
    tower = np.clip((-1.2 - x) / metres + 0.5, 0.0, 1.0) * np.clip((PLATFORM - y) / metres, 0.0, 1.0) * (1.0 - below)
    _paint(picture, tower, np.array([95.0, 95.0, 100.0]))
    slab = np.clip(0.5 - x / metres, 0.0, 1.0) * np.clip((0.13 - np.abs(y - PLATFORM + 0.13)) / metres + 0.5, 0.0, 1.0)
    _paint(picture, slab, np.array([70.0, 70.0, 78.0]))
    return picture


def render(dives: Dives, n_frames: int = 16, size: int = 56, seed: int = 0) -> np.ndarray:
    """Clips of the dives, RGB uint8 (n, n_frames, size, size, 3).

    `seed` draws what differs between clips without being judged: brightness, tint and shading of the hall, camera
    offset (up to 0.3 m), start of the clip (up to half a frame), skin and suit colour, shape of the splash.
    """
    if n_frames < 2:
        raise ValueError(f"n_frames must be >= 2, got {n_frames}")
    if size < 8:
        raise ValueError(f"size must be >= 8, got {size}")
    n, metres = len(dives), VIEW / size
    looks = _generator(seed, 2).random((n, 16))
    time = (np.arange(n_frames) + (looks[:, :1] - 0.5)) / (n_frames - 1)
    joints = _joints(dives, time)
    pixels = (np.arange(size) + 0.5) * metres
    columns = (VIEW_LEFT + pixels + 0.6 * (looks[:, 1:2] - 0.5)).astype(np.float32)[:, None, :]
    rows = (VIEW_TOP - pixels + 0.6 * (looks[:, 2:3] - 0.5)).astype(np.float32)[:, :, None]
    light = (0.85 + 0.25 * looks[:, 3:4]) * (1.0 + 0.1 * (looks[:, 4:7] - 0.5))
    skin = np.array([232.0, 175.0, 135.0]) * (0.65 + 0.35 * looks[:, 7:8])
    suit = np.array([150.0, 20.0, 50.0]) * (0.6 + 0.8 * looks[:, 8:9])
    hair = np.array([40.0, 28.0, 20.0])
    foam = np.array([250.0, 252.0, 255.0])

    # The jets rise quickly and have half fallen back at the end of the clip.
    burst = np.interp(time, [SPLASH_START, SPLASH_PEAK, 1.0], [0.0, 1.0, 0.55])
    last_hips = joints["hips"][:, -1]
    entry_x = last_hips[:, 0] + last_hips[:, 1] * np.tan(np.radians(dives.entry_angle))  # back up along the body
    clips = np.empty((n, n_frames, size, size, 3), dtype=np.uint8)
    for first in range(0, n, CHUNK):
        part = slice(first, first + CHUNK)
        x, y = columns[part], rows[part]
        above = np.clip(0.5 + y / metres, 0.0, 1.0)
        hall = _scenery(x, y, looks[part, 9:11], metres)
        for frame in range(n_frames):
            at = {name: place[part, frame] for name, place in joints.items()}
            picture = hall.copy()
            thigh = _capsule(x, y, at["hips"], at["knees"], THIGH_RADIUS, metres)
            shank = _capsule(x, y, at["knees"], at["feet"], SHANK_RADIUS, metres)
            arm = _capsule(x, y, at["shoulders"], at["hands"], ARM_RADIUS, metres)
            torso = _capsule(x, y, at["hips"], at["shoulders"], TORSO_RADIUS, metres)
            head = _capsule(x, y, at["head"], at["head"], HEAD_RADIUS, metres)
            _paint(picture, above * torso, suit[part])
            _paint(picture, above * head, hair)
            _paint(picture, above * np.maximum(np.maximum(thigh, shank), arm), skin[part])
            if burst[part, frame].any():
                strength = burst[part, frame] * (0.08 + 0.92 * dives.splash[part])
                source = np.stack([entry_x[part], np.zeros_like(strength)], axis=-1)
                side = np.stack([0.25 + 1.1 * strength, np.zeros_like(strength)], axis=-1)
                cover = _capsule(x, y, source - side, source + side, 0.02 + 0.1 * strength, metres)
                for jet, angle in enumerate(JET_ANGLES):
                    length = 2.0 * strength * JET_LENGTHS[jet] * (0.8 + 0.4 * looks[part, 11 + jet])
                    tip = source + length[:, None] * _along(angle)
                    cover = np.maximum(cover, _capsule(x, y, source, tip, 0.16 * strength, metres))
                _paint(picture, (burst[part, frame] > 0).astype(np.float32)[:, None, None] * cover, foam)
            picture *= light[part].astype(np.float32)[:, :, None, None]
            clips[part, frame] = np.clip(picture, 0.0, 255.0).transpose(0, 2, 3, 1)
    return clips
