"""Live Link Face's UDP packets, as Unreal Engine's Live Link takes them.

    uint8   version, 6
    int32   length, then as many bytes: device id, UTF-8
    int32   length, then as many bytes: subject name, UTF-8
    int32   frame number;  float32  part of a frame;  int32, int32  frame rate as numerator and denominator
    uint8   count, 61
    61 x float32

All big-endian. The values are ARKit's 52 weights in the order of `ARKIT_NAMES`, then yaw, pitch and roll in radians of
the head, of the left eye and of the right eye. Layout: AppleARKitLiveLinkSource of Unreal Engine, as described by the
public project think-biq/LLV.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from ofer_models.avatar.performance import Performance, eye_angles, head_angles

PORT = 11111  # where Unreal Engine listens
VERSION, COUNT = 6, 61
_DAY = 86400  # s
_ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
_LONGEST = 256  # bytes of a name that the engine takes


def packet(performance: Performance, subject: str, device: str, rate: int = 60) -> bytes:
    """One frame as one datagram. rate: frames a second in which the time code, seconds of the day, is counted.

    Raises ValueError for names that are empty or too long.
    """
    count = performance.stamp % _DAY * rate % (_DAY * rate)  # what rounds up to a whole day begins the next
    whole = math.floor(count)
    part = min(count - whole, _ALMOST_ONE)  # the engine takes no whole one
    eyes = np.radians(eye_angles(performance.weights))
    values = [
        *performance.weights.tolist(), *head_angles(performance.rotation),
        *(angle for yaw, pitch in eyes.tolist() for angle in (yaw, pitch, 0.0)),
    ]  # fmt: skip
    return b"".join([
        struct.pack(">B", VERSION), _text(device, "device id"), _text(subject, "subject"),
        struct.pack(">ifii", whole, part, rate, 1), struct.pack(f">B{COUNT}f", COUNT, *values),
    ])  # fmt: skip


def _text(name: str, what: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= _LONGEST:
        raise ValueError(f"the {what} must have 1 to {_LONGEST} bytes, {name!r} has {len(encoded)}")
    return struct.pack(">i", len(encoded)) + encoded
