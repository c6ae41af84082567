"""sensor_msgs/Image and CompressedImage to RGB arrays, with every disagreement named.

Needs no cv_bridge, and gives what it gives: colour is converted first, then 16-bit samples are scaled by 255 / 65535;
grey is repeated over the channels, alpha is dropped. `cv_bridge_converter` hands the conversion to cv_bridge itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ofer_models.perception.pictures import Limits, PictureError, check_size, decode_picture

MAX_PIXELS = 4096 * 4096  # larger frames cost more to convert than any face in them needs
_SHOWN = 40  # characters of a message's text that an error shows, as Python writes them: no control characters


class ImageError(ValueError):
    """An image message that cannot be used; the text says what is wrong in one line."""


@dataclass(frozen=True)
class _Encoding:
    """Memory layout of one encoding: sample type, channels, rows per image row (3/2 for planar chroma), to RGB."""

    sample: type
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    planes: float = 1.0
    pairs: bool = False  # pixels side by side share their colour

    def row_bytes(self, width: int) -> int:
        return width * self.channels * np.dtype(self.sample).itemsize


def _convert(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _encodings() -> dict[str, _Encoding]:
    table: dict[str, _Encoding] = {}
    colour = {
        "mono": (1, _convert(cv2.COLOR_GRAY2RGB)),
        "rgb": (3, np.ascontiguousarray),
        "bgr": (3, _convert(cv2.COLOR_BGR2RGB)),
        "rgba": (4, _convert(cv2.COLOR_RGBA2RGB)),
        "bgra": (4, _convert(cv2.COLOR_BGRA2RGB)),
        # OpenCV names a Bayer pattern by its second row: ROS's rggb is OpenCV's BayerBG.
        "bayer_rggb": (1, _convert(cv2.COLOR_BayerBG2RGB)),
        "bayer_bggr": (1, _convert(cv2.COLOR_BayerRG2RGB)),
        "bayer_gbrg": (1, _convert(cv2.COLOR_BayerGR2RGB)),
        "bayer_grbg": (1, _convert(cv2.COLOR_BayerGB2RGB)),
    }
    for name, (channels, to_rgb) in colour.items():
        table[f"{name}8"] = _Encoding(np.uint8, channels, to_rgb)
        table[f"{name}16"] = _Encoding(np.uint16, channels, to_rgb)
    # OpenCV's own type names carry no colour order; its convention is BGR.
    for bits, sample in ((8, np.uint8), (16, np.uint16)):
        for channels, name in ((1, "mono"), (3, "bgr"), (4, "bgra")):
            table[f"{bits}UC{channels}"] = _Encoding(sample, channels, colour[name][1])
    # Packed 4:2:2 is always of 8 bits; the first of each pair is ROS's older name.
    table["yuv422"] = table["uyvy"] = _Encoding(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_UYVY), pairs=True)
    table["yuv422_yuy2"] = table["yuyv"] = _Encoding(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_YUY2), pairs=True)
    table["nv12"] = _Encoding(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV12), planes=1.5)
    table["nv21"] = _Encoding(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV21), planes=1.5)
    return table


_ENCODINGS = _encodings()
ENCODINGS = tuple(sorted(_ENCODINGS))


def pixel_bytes(encoding: str) -> int:
    """Size of one pixel in a known encoding."""
    return _ENCODINGS[encoding].row_bytes(1)


def check(message, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError for a sensor_msgs/Image that contradicts itself or cannot be used.

    That is: a size of zero or beyond max_pixels, an unknown encoding, a step smaller than a row, and data shorter than
    height * step.
    """
    width, height, step = message.width, message.height, message.step
    try:
        check_size(width, height, Limits(max_pixels))
    except PictureError as error:
        raise ImageError(f"the image is {error}") from None
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(f"encoding {message.encoding[:_SHOWN]!r} is not supported; use one of {', '.join(ENCODINGS)}")
    row = encoding.row_bytes(width)
    if step < row:
        raise ImageError(
            f"step {step} disagrees with the width: a row of {width} px in {message.encoding} has {row} bytes"
        )
    if encoding.pairs and width % 2:
        raise ImageError(f"{message.encoding} needs an even width, the image is {width} x {height}")
    if encoding.planes != 1.0 and (width % 2 or height % 2):
        raise ImageError(f"{message.encoding} needs an even size, the image is {width} x {height}")
    rows = int(height * encoding.planes)
    if len(message.data) < rows * step:
        raise ImageError(
            f"data is truncated: {len(message.data)} bytes, but {height} rows of step {step} in {message.encoding} "
            f"are {rows * step}"
        )


def image_to_rgb(message, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """sensor_msgs/Image to (H, W, 3) uint8 RGB, C-contiguous; the array may share the message's memory.

    Raises ImageError as `check` does.
    """
    check(message, max_pixels)
    encoding = _ENCODINGS[message.encoding]
    width, rows, sample = message.width, int(message.height * encoding.planes), np.dtype(encoding.sample)
    data = np.frombuffer(message.data, np.uint8)[: rows * message.step].reshape(rows, message.step)
    pixels = np.ascontiguousarray(data[:, : encoding.row_bytes(width)])
    if sample.itemsize == 2:
        pixels = pixels.view(sample.newbyteorder(">" if message.is_bigendian else "<")).astype(np.uint16, copy=False)
    if encoding.channels != 1:
        pixels = pixels.reshape(rows, width, encoding.channels)
    rgb = encoding.to_rgb(pixels)
    return rgb if rgb.dtype == np.uint8 else _to_8_bit(rgb)


def compressed_to_rgb(message, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """sensor_msgs/CompressedImage (JPEG, PNG, or what `decode_picture` reads) to (H, W, 3) uint8 RGB, not turned by
    EXIF: a camera's calibration is about the pixels as they are stored. Raises ImageError, before decoding for what is
    too large.
    """
    if "compressedDepth" in message.format:
        raise ImageError(f"format {message.format[:_SHOWN]!r} holds depth, not colour; subscribe to the colour image")
    try:
        return decode_picture(bytes(message.data), Limits(max_pixels))
    except PictureError as error:
        raise ImageError(f"the compressed image cannot be decoded: {error}") from None


def is_compressed(message) -> bool:
    """Which of the two a message is, of whatever library that reads it."""
    return hasattr(message, "format")


def to_rgb(message, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage to (H, W, 3) uint8 RGB. Raises ImageError."""
    convert = compressed_to_rgb if is_compressed(message) else image_to_rgb
    return convert(message, max_pixels)


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
