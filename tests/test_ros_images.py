"""Image messages to RGB: every encoding against an independent reading, every disagreement named."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message
from ros_support import image_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ofer_ros.cdr import compressed_image_bytes, image_bytes
from ofer_ros.images import ENCODINGS, MAX_SIDE, ImageError, compressed_to_rgb, image_to_rgb

pytestmark = pytest.mark.ros
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GREY = RGB[..., 0]


def alpha(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 7)], axis=-1)


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("8UC3", RGB[..., ::-1], RGB),
        ("rgba8", alpha(RGB), RGB),
        ("bgra8", alpha(RGB[..., ::-1]), RGB),
        ("mono8", GREY, np.repeat(GREY[..., None], 3, -1)),
        ("8UC1", GREY, np.repeat(GREY[..., None], 3, -1)),
        ("mono16", GREY.astype(np.uint16) * 257, np.repeat(GREY[..., None], 3, -1)),
        ("16UC1", GREY.astype(np.uint16) * 257, np.repeat(GREY[..., None], 3, -1)),
        ("rgb16", RGB.astype(np.uint16) * 257, RGB),
        ("bgr16", RGB[..., ::-1].astype(np.uint16) * 257, RGB),
        ("rgba16", alpha(RGB).astype(np.uint16) * 257, RGB),
    ],
)
def test_encodings_give_the_same_rgb(encoding, pixels, expected):
    np.testing.assert_array_equal(image_to_rgb(image_message(pixels, encoding)), expected)


def test_big_endian_samples():
    message = image_message((GREY.astype(np.uint16) * 257).astype(">u2"), "mono16")
    message.is_bigendian = 1
    np.testing.assert_array_equal(image_to_rgb(message)[..., 0], GREY)


def test_16_bit_uses_the_whole_range_and_rounds():
    message = image_message(np.array([[0, 128, 129, 65535]], np.uint16), "mono16")
    np.testing.assert_array_equal(image_to_rgb(message)[0, :, 0], [0, 0, 1, 255])


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_put_each_colour_where_it_was(pattern):
    color = np.array([200, 100, 50], np.uint8)
    mosaic = np.zeros((8, 8), np.uint8)
    for index, channel in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = color["rgb".index(channel)]
    rgb = image_to_rgb(image_message(mosaic, f"bayer_{pattern}8"))
    np.testing.assert_array_equal(rgb[4, 4], color)


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", (1, 0)), ("yuv422_yuy2", (0, 1))])
def test_yuv422_of_grey_is_grey(encoding, order):
    pixels = np.full((4, 4, 2), 128, np.uint8)
    pixels[..., order[0]] = 126  # luma 126 of 16..235 is 128 of 0..255
    assert np.abs(image_to_rgb(image_message(pixels, encoding)).astype(int) - 128).max() <= 1


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", (90, 240)), ("nv21", (240, 90))])
def test_planar_chroma(encoding, chroma):
    planes = np.full((6, 4), 82, np.uint8)
    planes[4:, 0::2], planes[4:, 1::2] = chroma
    message = image_message(planes, encoding)
    message.height = 4
    red = image_to_rgb(message)
    assert red.shape == (4, 4, 3)
    assert (np.abs(red.astype(int) - [255, 0, 0]) <= 4).all()


def test_padding_behind_each_row_is_skipped():
    padded = np.zeros((6, 40), np.uint8)
    padded[:, :24] = RGB.reshape(6, 24)
    message = image_message(RGB, "rgb8")
    message.step, message.data = 40, padded.tobytes()
    np.testing.assert_array_equal(image_to_rgb(message), RGB)


def broken(**fields) -> Image:
    message = image_message(RGB, "rgb8")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (broken(width=0), "empty: 0 x 6"),
        (broken(height=0), "empty: 8 x 0"),
        (broken(encoding="32FC1"), "encoding '32FC1' is not supported; use one of"),
        (broken(encoding=""), "encoding '' is not supported"),
        (broken(step=23), "step 23 disagrees with the width: a row of 8 px in rgb8 has 24 bytes"),
        (broken(encoding="rgba8"), "step 24 disagrees"),
        (broken(data=bytes(100)), "truncated: 100 bytes, but 6 rows of step 24 in rgb8 are 144"),
        (broken(data=b""), "truncated: 0 bytes"),
        (broken(step=48), "truncated: 144 bytes, but 6 rows of step 48"),
        (broken(width=8000, step=24000), f"at most {MAX_SIDE} px"),
        (broken(height=8000), "8 x 8000"),
        (broken(encoding="nv12", width=7), "even size"),
    ],
)
def test_what_cannot_be_used_says_why_in_one_line(message, text):
    with pytest.raises(ImageError) as caught:
        image_to_rgb(message)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 9000),
    st.integers(0, 9000),
    st.integers(0, 2**32 - 1),
    st.sampled_from([*ENCODINGS, "", "jpeg", "32FC3"]),
    st.integers(0, 3000),
)
def test_any_combination_is_an_image_or_an_image_error(width, height, step, encoding, size):
    message = Image(width=width, height=height, step=step, encoding=encoding, data=bytes(size))
    try:
        rgb = image_to_rgb(message)
    except ImageError:
        return
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8


SMOOTH = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8), (0, 0), 4)


@pytest.mark.parametrize(("extension", "tolerance"), [(".png", 0), (".jpg", 12)])
def test_compressed_images(extension, tolerance):
    encoded = cv2.imencode(extension, SMOOTH[..., ::-1])[1].tobytes()
    rgb = compressed_to_rgb(CompressedImage(format=extension[1:], data=encoded))
    assert np.abs(rgb.astype(int) - SMOOTH).max() <= tolerance


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_truncated_compressed_image_is_refused(extension):
    encoded = cv2.imencode(extension, SMOOTH)[1].tobytes()
    with pytest.raises(ImageError, match="truncated"):
        compressed_to_rgb(CompressedImage(format="jpeg", data=encoded[: len(encoded) * 2 // 3]))


@pytest.mark.parametrize(
    ("data", "form", "text"),
    [
        (b"", "jpeg", "empty"),
        (b"not a picture", "jpeg", "cannot be decoded"),
        (b"x", "32FC1; compressedDepth", "depth"),
    ],
)
def test_compressed_rubbish(data, form, text):
    with pytest.raises(ImageError, match=text):
        compressed_to_rgb(CompressedImage(format=form, data=data))


def test_a_huge_compressed_image_is_refused():
    encoded = cv2.imencode(".png", np.zeros((4, 8000), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match="8000 x 4"):
        compressed_to_rgb(CompressedImage(format="png", data=encoded))


@pytest.mark.parametrize("frame_id", ["", "c", "camera_optical_frame"])
@pytest.mark.parametrize(("pixels", "encoding"), [(RGB, "bgr8"), (GREY, "mono8"), (RGB[:, ::2], "rgb8")])
def test_serialised_images_equal_the_real_type(frame_id, pixels, encoding):
    header = Header(frame_id=frame_id)
    header.stamp.sec = 7
    received = deserialize_message(image_bytes(pixels, encoding, header), Image)
    expected = image_message(pixels, encoding, 7.0, frame_id)
    assert received == expected


def test_serialised_compressed_images_equal_the_real_type():
    header = Header(frame_id="cam")
    received = deserialize_message(compressed_image_bytes(b"abcde", "jpeg", header), CompressedImage)
    assert received == CompressedImage(header=header, format="jpeg", data=b"abcde")
