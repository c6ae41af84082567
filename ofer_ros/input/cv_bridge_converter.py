"""cv_bridge as the converter of images, where it is installed and the parameter `conversion` asks for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofer_ros.input.images import ImageError, check, image_to_rgb, pixel_bytes

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


def image_converter(conversion: str, log: Callable[[str], object]) -> Callable[[object], np.ndarray]:
    """sensor_msgs/Image -> (H, W, 3) uint8 RGB by 'builtin' or 'cv_bridge'; both raise ImageError and agree.

    Says through `log` when cv_bridge is asked for and not there; the built-in converter then does its work.
    """
    if conversion == "builtin":
        return image_to_rgb
    if CvBridge is None:
        log(
            "cv_bridge is not installed or does not fit this numpy: images are converted without it, to the same values"
        )
        return image_to_rgb
    bridge = CvBridge()

    def convert(message) -> np.ndarray:
        # It takes rows of whole pixels only, and tells of damage in words that help nobody.
        check(message)
        if message.encoding not in BRIDGED or message.step % pixel_bytes(message.encoding):
            return image_to_rgb(message)
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
        except Exception as error:  # CvBridgeError, and whatever numpy says
            raise ImageError(f"cv_bridge: {error}") from None

    return convert
