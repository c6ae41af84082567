"""Publishing large arrays without one Python object per number.

`Publisher.publish` takes serialised messages, of type `bytes` exactly. Where the bulk of a message is its last field,
the rest is serialised by ROS itself and the bulk is appended: one copy instead of the generated code's several.
"""

from __future__ import annotations

import struct

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header


def with_data(message, data: bytes | memoryview) -> bytes:
    """Serialise `message`, whose last field `data` is an empty uint8 sequence, as if that field held `data`."""
    head = serialize_message(message)
    if head[-4:] != b"\0\0\0\0":
        raise ValueError(f"{type(message).__name__} does not end in an empty sequence")
    return b"".join((head[:-4], struct.pack("<I", len(data)), data))


def image_bytes(pixels: np.ndarray, encoding: str, header: Header) -> bytes:
    """Serialised sensor_msgs/Image of (H, W) or (H, W, C) pixels."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels.strides[0]
    return with_data(message, pixels.data.cast("B"))


def compressed_image_bytes(encoded: bytes, form: str, header: Header) -> bytes:
    """Serialised sensor_msgs/CompressedImage of an encoded picture; `form` is its format field, for example 'jpeg'."""
    return with_data(CompressedImage(header=header, format=form), encoded)
