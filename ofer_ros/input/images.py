"""sensor_msgs/Image and CompressedImage to RGB arrays, with every disagreement named.

Needs no cv_bridge, and gives what it gives: colour is converted first, then 16-bit samples are scaled by 255 / 65535;
grey is repeated over the channels, alpha is dropped. `cv_bridge_converter` hands the conversion to cv_bridge itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

MAX_SIDE = 4096  # px; larger frames cost more to convert than any face in them needs

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


class ImageError(ValueError):
    """An image message that cannot be used; the text says what is wrong in one line."""


@dataclass(frozen=True)
class _Encoding:
    """Memory layout of one encoding: sample type, channels, rows per image row (3/2 for planar chroma), to RGB."""

    sample: type
    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    planes: float = 1.0

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
    table["yuv422"] = table["uyvy"] = _Encoding(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_UYVY))
    table["yuv422_yuy2"] = table["yuyv"] = _Encoding(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_YUY2))
    table["nv12"] = _Encoding(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV12), planes=1.5)
    table["nv21"] = _Encoding(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV21), planes=1.5)
    return table


_ENCODINGS = _encodings()
ENCODINGS = tuple(sorted(_ENCODINGS))


def pixel_bytes(encoding: str) -> int:
    """Size of one pixel in a known encoding."""
    return _ENCODINGS[encoding].row_bytes(1)


def check(message) -> None:
    """Raise ImageError for a sensor_msgs/Image that contradicts itself or cannot be used.

    That is: a size of zero or beyond MAX_SIDE, an unknown encoding, a step smaller than a row, and data shorter than
    height * step.
    """
    width, height, step = message.width, message.height, message.step
    _check_size(width, height)
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(f"encoding '{message.encoding}' is not supported; use one of {', '.join(ENCODINGS)}")
    row = encoding.row_bytes(width)
    if step < row:
        raise ImageError(
            f"step {step} disagrees with the width: a row of {width} px in {message.encoding} has {row} bytes"
        )
    if encoding.planes != 1.0 and (width % 2 or height % 2):
        raise ImageError(f"{message.encoding} needs an even size, the image is {width} x {height}")
    rows = int(height * encoding.planes)
    if len(message.data) < rows * step:
        raise ImageError(
            f"data is truncated: {len(message.data)} bytes, but {height} rows of step {step} in {message.encoding} "
            f"are {rows * step}"
        )


def image_to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image to (H, W, 3) uint8 RGB, C-contiguous; the array may share the message's memory.

    Raises ImageError as `check` does.
    """
    check(message)
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


def compressed_to_rgb(message) -> np.ndarray:
    """sensor_msgs/CompressedImage (JPEG, PNG, or what OpenCV reads) to (H, W, 3) uint8 RGB. Raises ImageError."""
    if "compressedDepth" in message.format:
        raise ImageError(f"format '{message.format}' holds depth, not colour; subscribe to the colour image")
    data = bytes(message.data)
    if not data:
        raise ImageError("the compressed image is empty")
    # OpenCV fills what is missing with grey and only warns: look for the end mark (some encoders pad after it).
    tail = data[-64:]
    if (data.startswith(_JPEG_START) and _JPEG_END not in tail) or (
        data.startswith(_PNG_START) and _PNG_END not in tail
    ):
        raise ImageError(f"the compressed image is truncated: {len(data)} bytes without an end mark")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"the compressed image cannot be decoded: {error.err}") from None
    if pixels is None:
        raise ImageError(f"the compressed image cannot be decoded: format '{message.format}', {len(data)} bytes")
    _check_size(pixels.shape[1], pixels.shape[0])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _check_size(width: int, height: int) -> None:
    if width == 0 or height == 0:
        raise ImageError(f"the image is empty: {width} x {height}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the image is {width} x {height}; at most {MAX_SIDE} px a side are handled: lower the camera's resolution "
            "or put image_proc's resize node before this one"
        )


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
