"""Image messages to RGB: every encoding against an independent reading, every disagreement named."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import io

import cv2
import numpy as np
import PIL.Image
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message
from ros_support import image_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ofer_ros.input import cv_bridge_converter
from ofer_ros.input.cv_bridge_converter import BRIDGED, CvBridge, image_converter
from ofer_ros.input.images import ENCODINGS, ImageError, compressed_to_rgb, image_to_rgb, pixel_bytes
from ofer_ros.output.large_arrays import compressed_image_bytes, image_bytes

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


PATTERNS = ["rggb", "bggr", "gbrg", "grbg"]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_patterns_put_each_colour_where_it_was(pattern, bits):
    color = np.array([200, 100, 50], np.uint8)
    mosaic = np.zeros((8, 8), np.uint8)
    for index, channel in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = color["rgb".index(channel)]
    if bits == 16:
        mosaic = mosaic.astype(np.uint16) * 257
    rgb = image_to_rgb(image_message(mosaic, f"bayer_{pattern}{bits}"))
    np.testing.assert_array_equal(rgb[4, 4], color)


def test_16_bit_mosaics_are_averaged_before_they_are_cut_to_8_bits():
    mosaic = np.zeros((4, 4), np.uint16)
    mosaic[1, 0], mosaic[1, 2] = 127, 131  # in rggb the green left and right of the blue at (1, 1)
    mosaic[0, 1], mosaic[2, 1] = 129, 133  # and above and below it
    mosaic[1::2, 1::2] = 65535
    green = image_to_rgb(image_message(mosaic, "bayer_rggb16"))[1, 1, 1]
    assert green == 1, "the mean is 130, which rounds to 1; of the four rounded alone (0, 1, 1, 1) one would be too"
    mosaic[1, 0] = mosaic[1, 2] = mosaic[0, 1] = 128
    mosaic[2, 1] = 136
    assert image_to_rgb(image_message(mosaic, "bayer_rggb16"))[1, 1, 1] == 1, "130 again; rounded alone: 0, 0, 0, 1"


# ITU-R BT.601 with luma in 16..235: Y, U, V of the three primaries, rounded.
PRIMARIES = {
    "red": ((82, 90, 240), (255, 0, 0)),
    "green": ((145, 54, 34), (0, 255, 0)),
    "blue": ((41, 240, 110), (0, 0, 255)),
}


@pytest.mark.parametrize("color", PRIMARIES)
@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv422(encoding, order, color):
    (y, u, v), expected = PRIMARIES[color]
    pixels = np.tile(np.array([{"y": y, "u": u, "v": v}[letter] for letter in order], np.uint8), 4 * 2)
    rgb = image_to_rgb(image_message(pixels.reshape(4, 4, 2), encoding))
    assert rgb.shape == (4, 4, 3)
    assert np.abs(rgb.astype(int) - expected).max() <= 4


def bridge_messages() -> list[Image]:
    """Noise in every encoding that cv_bridge knows, plain, with padded rows and big-endian."""
    rng = np.random.default_rng(3)
    found = []
    for encoding in sorted(BRIDGED):
        sample = np.uint16 if encoding.endswith("16") else np.uint8
        channels = pixel_bytes(encoding) // np.dtype(sample).itemsize
        pixels = rng.integers(0, np.iinfo(sample).max + 1, (10, 12, channels)).astype(sample)
        found.append(image_message(pixels, encoding))
        padded = image_message(pixels, encoding)
        padded.step = (12 + 4) * pixel_bytes(encoding)
        padded.data = np.pad(pixels, ((0, 0), (0, 4), (0, 0))).tobytes()
        found.append(padded)
    swapped = image_message(rng.integers(0, 65536, (10, 12, 3)).astype(">u2"), "rgb16")
    swapped.is_bigendian = 1
    return [*found, swapped]


def test_cv_bridge_gives_the_same_values():
    if CvBridge is None:
        pytest.skip("cv_bridge is not installed (ros-<distribution>-cv-bridge)")
    convert = image_converter("cv_bridge", pytest.fail)
    for message in bridge_messages():
        np.testing.assert_array_equal(convert(message), image_to_rgb(message), message.encoding)


class StandInBridge:
    """Takes cv_bridge's place: says which messages it got."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def imgmsg_to_cv2(self, message: Image, desired: str) -> np.ndarray:
        assert desired == "rgb8"
        self.seen.append(message.encoding)
        if message.encoding == "mono16":
            raise RuntimeError("no such luck")
        return np.full((message.height, message.width, 3), 77, np.uint8)


def test_cv_bridge_gets_what_it_can_read_and_no_more(monkeypatch):
    stand_in = StandInBridge()
    monkeypatch.setattr(cv_bridge_converter, "CvBridge", lambda: stand_in)
    convert = image_converter("cv_bridge", pytest.fail)
    assert (convert(image_message(RGB, "bgr8")) == 77).all()
    uneven = image_message(np.pad(RGB.reshape(6, 24), ((0, 0), (0, 2))), "rgb8")
    uneven.width = 8
    np.testing.assert_array_equal(convert(uneven), RGB)
    np.testing.assert_array_equal(convert(image_message(RGB, "8UC3")), RGB[..., ::-1])
    with pytest.raises(ImageError, match="truncated"):
        convert(broken(data=b""))
    assert stand_in.seen == ["bgr8"]
    with pytest.raises(ImageError, match="cv_bridge: no such luck"):
        convert(image_message(GREY.astype(np.uint16), "mono16"))


def test_without_cv_bridge_it_says_so_and_converts_all_the_same(monkeypatch):
    monkeypatch.setattr(cv_bridge_converter, "CvBridge", None)
    said: list[str] = []
    message = image_message(RGB, "rgb8")
    np.testing.assert_array_equal(image_converter("builtin", said.append)(message), RGB)
    assert not said
    np.testing.assert_array_equal(image_converter("cv_bridge", said.append)(message), RGB)
    assert len(said) == 1 and "cv_bridge is not installed" in said[0]


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
        (broken(encoding="r\x1b8"), "encoding 'r\\x1b8' is not supported"),
        (broken(encoding="x" * 1000), f"encoding '{'x' * 40}' is not supported"),
        (broken(step=23), "step 23 disagrees with the width: a row of 8 px in rgb8 has 24 bytes"),
        (broken(encoding="rgba8"), "step 24 disagrees"),
        (broken(data=bytes(100)), "truncated: 100 bytes, but 6 rows of step 24 in rgb8 are 144"),
        (broken(data=b""), "truncated: 0 bytes"),
        (broken(step=48), "truncated: 144 bytes, but 6 rows of step 48"),
        (broken(width=8000, height=8000, step=24000), "too large: 8000 x 8000 are 64.0 million pixels, at most 16.8"),
        (broken(width=1, step=3, height=40000), "1 x 40000"),
        (broken(encoding="nv12", width=7), "even size"),
        (broken(encoding="yuyv", width=7), "yuyv needs an even width, the image is 7 x 6"),
        (broken(encoding="yuv422", width=7), "even width"),
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
    encoded = cv2.imencode(".png", np.zeros((4200, 4200), np.uint8))[1].tobytes()
    message = CompressedImage(format="png", data=encoded)
    with pytest.raises(ImageError, match="4200 x 4200 are 17.6 million pixels, at most 16.8"):
        compressed_to_rgb(message)
    assert compressed_to_rgb(message, 4200 * 4200).shape == (4200, 4200, 3)
    with pytest.raises(ImageError, match="at most 0.0"):
        image_converter("builtin", pytest.fail, max_pixels=47)(image_message(RGB, "rgb8"))


@pytest.mark.parametrize("filling", [b"", bytes(4096), bytes(65536)])
@pytest.mark.parametrize("marked", [True, False])
def test_jpegs_as_cameras_send_them_are_read(filling, marked):
    encoded = cv2.imencode(".jpg", SMOOTH)[1].tobytes()
    message = CompressedImage(format="jpeg", data=encoded[: None if marked else -2] + filling)
    expected = compressed_to_rgb(CompressedImage(format="jpeg", data=encoded))
    np.testing.assert_array_equal(compressed_to_rgb(message), expected)


def test_exif_does_not_turn_what_a_camera_sends():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    PIL.Image.fromarray(SMOOTH).save(stream, "JPEG", exif=exif)
    assert compressed_to_rgb(CompressedImage(format="jpeg", data=stream.getvalue())).shape == SMOOTH.shape


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
