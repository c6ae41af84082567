"""A frame on its way through a node: as it arrives, and with what was made of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ofer_models.perception.intrinsics import Intrinsics


@dataclass(frozen=True)
class Frame:
    """An image message, the CameraInfo it was paired with (None: not paired), and when it arrived (time.monotonic)."""

    message: Image | CompressedImage
    info: CameraInfo | None = None
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Result:
    """A processed frame: its header, its pixels (H, W, 3) uint8 RGB, the intrinsics used and the pipeline's faces."""

    header: Header
    rgb: np.ndarray
    intrinsics: Intrinsics
    faces: list
