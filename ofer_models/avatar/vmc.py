"""VMC (Virtual Motion Capture) protocol: OSC messages from a performer to whatever draws the avatar.

Addresses and types: protocol.vmc.info, version 2.7. Unity's axes there: x to the avatar's right, y up, z forward,
left-handed; quaternions x, y, z, w.
"""

from __future__ import annotations

import numpy as np
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import OscMessageBuilder

from ofer_models.avatar.performance import Performance, eye_angles
from ofer_models.head.arkit import ARKIT_NAMES
from ofer_models.head.model import rotation_matrices
from ofer_models.head.rotations import quaternion_from_matrix

PORT = 39539  # where a marionette, which draws, listens by custom
UNCERTAINTY = "/OFER/Ext/Blend/Uncertainty"  # our own address; receivers skip what they do not know
# VRM 1.0's presets of mouth and eyes as combinations of ARKit's weights. Of several, the mean.
VRM_PRESETS: dict[str, tuple[str, ...]] = {
    "aa": ("jawOpen",),
    "ih": ("mouthStretchLeft", "mouthStretchRight"),
    "ou": ("mouthPucker",),
    "ee": ("mouthSmileLeft", "mouthSmileRight"),
    "oh": ("mouthFunnel",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "blinkLeft": ("eyeBlinkLeft",),
    "blinkRight": ("eyeBlinkRight",),
    "happy": ("mouthSmileLeft", "mouthSmileRight"),
    "angry": ("browDownLeft", "browDownRight"),
    "sad": ("mouthFrownLeft", "mouthFrownRight"),
    "surprised": ("eyeWideLeft", "eyeWideRight"),
}
_MIRROR = np.diag([-1.0, 1.0, 1.0])  # head axes (x left) to Unity's (x right)


def packet(performance: Performance, seconds: float, tracked: bool = True) -> bytes:
    """One OSC bundle: availability, time, bones of head and eyes, all weights, and `Apply` after the last of them.

    seconds: time since the sender started. tracked: False while the face is lost; the weights are the last ones then.
    Weights go out under ARKit's names, with a capital first letter as avatars made for them have, and as VRM's presets.
    """
    bundle = OscBundleBuilder(IMMEDIATELY)
    bundle.add_content(_message("/VMC/Ext/OK", 1, 3, 0, int(tracked)))
    bundle.add_content(_message("/VMC/Ext/T", float(seconds)))
    bones = {"Head": performance.rotation}
    for name, (yaw, pitch) in zip(("LeftEye", "RightEye"), np.radians(eye_angles(performance.weights)), strict=True):
        bones[name] = rotation_matrices(np.array([0.0, yaw, 0.0])) @ rotation_matrices(np.array([-pitch, 0.0, 0.0]))
    for name, rotation in bones.items():
        bundle.add_content(_message("/VMC/Ext/Bone/Pos", name, 0.0, 0.0, 0.0, *unity_quaternion(rotation)))
    values = dict(zip(ARKIT_NAMES, performance.weights.tolist(), strict=True))
    for name, value in {**_capitals(values), **presets(values)}.items():
        bundle.add_content(_message("/VMC/Ext/Blend/Val", name, value))
    bundle.add_content(_message("/VMC/Ext/Blend/Apply"))
    for name, value in _capitals(dict(zip(ARKIT_NAMES, performance.uncertainty.tolist(), strict=True))).items():
        bundle.add_content(_message(UNCERTAINTY, name, value))
    return bundle.build().dgram


def presets(weights: dict[str, float]) -> dict[str, float]:
    """VRM 1.0's presets in 0..1 from ARKit's weights by name. `blink` closes both eyes and is left to the two sides'
    own presets where they differ, so that no lid closes twice."""
    values = {name: sum(weights[part] for part in parts) / len(parts) for name, parts in VRM_PRESETS.items()}
    both = min(values["blinkLeft"], values["blinkRight"])
    return values | {
        "blink": both, "blinkLeft": values["blinkLeft"] - both, "blinkRight": values["blinkRight"] - both
    }  # fmt: skip


def unity_quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w in Unity's axes of a rotation (3, 3) in the head's."""
    x, y, z, w = quaternion_from_matrix(_MIRROR @ rotation @ _MIRROR).tolist()
    return x, y, z, w


def _capitals(values: dict[str, float]) -> dict[str, float]:
    return {name[0].upper() + name[1:]: value for name, value in values.items()}


def _message(address: str, *arguments: str | int | float):
    builder = OscMessageBuilder(address)
    for argument in arguments:
        builder.add_arg(argument)
    return builder.build()
