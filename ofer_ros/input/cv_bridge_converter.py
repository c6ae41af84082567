"""cv_bridge as the converter of images, where it is installed and the parameter `conversion` asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ofer_ros.input.images import MAX_PIXELS, ImageError, check, is_compressed, pixel_bytes, to_rgb

try:
    from cv_bridge import CvBridge
except (ImportError, AttributeError):  # absent, or compiled against another numpy
    CvBridge = None

# Encodings that every cv_bridge takes to RGB. It has no planar chroma, and `8UC3` and its like are no colours to it.
BRIDGED = frozenset(
    f"{name}{bits}"
    for name in ("mono", "rgb", "bgr", "rgba", "bgra", "bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
    for bits in (8, 16)
) | {"yuv422"}


def image_converter(
    conversion: str, log: Callable[[str], object], max_pixels: int = MAX_PIXELS
) -> Callable[[object], np.ndarray]:
    """sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8 RGB by 'builtin' or 'cv_bridge'; both raise ImageError
    and agree. Compressed images are not cv_bridge's.

    Says through `log` when cv_bridge is asked for and not there; the built-in converter then does its work.
    """
    builtin = partial(to_rgb, max_pixels=max_pixels)
    if conversion == "builtin":
        return builtin
    if CvBridge is None:
        log(
            "cv_bridge is not installed or does not fit this numpy: images are converted without it, to the same values"
        )
        return builtin
    bridge = CvBridge()

    def convert(message) -> np.ndarray:
        if is_compressed(message):
            return builtin(message)
        # It takes rows of whole pixels only, and tells of damage in words that help nobody.
        check(message, max_pixels)
        if message.encoding not in BRIDGED or message.step % pixel_bytes(message.encoding):
            return builtin(message)
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except Exception as error:  # CvBridgeError, and whatever numpy says
            raise ImageError(f"cv_bridge: {error}") from None

    return convert
