"""The one reader of pictures: limits before decoding, truncation, orientation, names, what a folder holds."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage.data import astronaut

from ofer_models.perception.pictures import (
    Limits,
    PictureError,
    decode_picture,
    natural_key,
    pictures_in,
    printable,
    read_picture,
    write_picture,
)

FACE = astronaut()[:240, 100:360]
FLAT = np.full((90, 120, 3), 128, np.uint8)  # what libjpeg also makes up where it has no data
JPEGS = {
    "baseline": {"quality": 90},
    "fine chroma, own tables": {"quality": 60, "subsampling": 0, "optimize": True},
    "restarts": {"quality": 95, "subsampling": 1, "restart_marker_rows": 3},
}
SEVERAL = {
    "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True},
    "JPEG2000": {}, "PPM": {},
}  # fmt: skip


def encoded(rgb: np.ndarray, form: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", SEVERAL)
def test_every_format_gives_the_picture(form):
    rgb = decode_picture(encoded(FACE, form, **SEVERAL[form]))
    assert np.abs(rgb.astype(int) - FACE).max() <= (30 if form == "JPEG" else 0)
    assert rgb.flags.c_contiguous and rgb.dtype == np.uint8


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("rgb", [FACE, FLAT], ids=["face", "flat"])
@pytest.mark.parametrize("filling", [bytes(4096), bytes(100_003), b"\xff" * 512, b"trailer \xff\xd9"])
def test_what_follows_the_end_of_a_jpeg_changes_nothing(options, rgb, filling):
    data = encoded(rgb, **options)
    np.testing.assert_array_equal(decode_picture(data + filling), decode_picture(data))


@pytest.mark.parametrize("options", [JPEGS["baseline"], JPEGS["restarts"]])
@pytest.mark.parametrize("rgb", [FACE, FLAT], ids=["face", "flat"])
@pytest.mark.parametrize("filling", [b"", bytes(4096), b"\xff" * 512])
def test_a_complete_jpeg_without_end_mark_is_read(options, rgb, filling):
    data = encoded(rgb, **options)
    np.testing.assert_array_equal(decode_picture(data[:-2] + filling), decode_picture(data))


@pytest.mark.parametrize("options", [*JPEGS.values(), {"progressive": True}], ids=[*JPEGS, "progressive"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("end", [b"", bytes(4096), b"\xff" * 64, b"\xff\xd9"], ids=["cut", "zeros", "ones", "marked"])
def test_a_jpeg_that_breaks_off_is_refused_however_it_ends(options, part, end):
    data = encoded(FACE, **options)
    with pytest.raises(PictureError, match="truncated"):
        decode_picture(data[: int(part * len(data))] + end)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail: \xff\xd8\xff\xd9"
    data = encoded(FACE, exif=exif)
    with pytest.raises(PictureError, match="truncated"):
        decode_picture(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("form", [form for form in SEVERAL if form != "JPEG"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_other_formats_that_break_off_are_refused(form, part):
    data = encoded(FACE, form, **SEVERAL[form])
    with pytest.raises(PictureError, match="truncated|not a picture"):
        decode_picture(data[: int(part * len(data))])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_of_every_format_are_turned_as_their_exif_says(form, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(FACE, form, exif=exif, **SEVERAL[form])
    path = tmp_path / "turned"
    path.write_bytes(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    rgb = read_picture(path)
    assert rgb.shape == expected.shape and np.abs(rgb.astype(int) - expected).mean() < 1
    if form != "TIFF":  # where it is part of the format
        assert np.abs(decode_picture(data).astype(int) - FACE).mean() < 3, "as stored, for calibrated cameras"


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds next to nothing."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded(FLAT))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("data", [bomb(30000, 30000), jpeg_bomb(30000, 30000)], ids=["png", "jpeg"])
def test_a_bomb_is_refused_by_its_header_before_it_takes_memory(data, tmp_path):
    (tmp_path / "bomb").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda: decode_picture(data), lambda: read_picture(tmp_path / "bomb")):
        with pytest.raises(PictureError, match="30000 x 30000 are 900.0 million pixels, at most 134.2 million"):
            read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kB"


def test_a_jpeg_in_thousands_of_scans_is_refused_before_it_takes_time():
    data = encoded(FACE, progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    many = data[:second] + 200 * data[second : data.index(b"\xff", second + 2)] + data[second:]
    with pytest.raises(PictureError, match="more than 100 scans"):
        decode_picture(many)


def test_limits_are_those_that_are_given():
    data = encoded(FACE, "PNG")
    assert decode_picture(data, Limits(pixels=240 * 260)).shape == FACE.shape
    with pytest.raises(PictureError, match="260 x 240"):
        decode_picture(data, Limits(pixels=240 * 260 - 1))
    with pytest.raises(PictureError, match="of data"):
        decode_picture(data, Limits(pixels=10**6, bytes=1000))
    with pytest.raises(PictureError, match="32766 px a side"):
        decode_picture(encoded(np.zeros((1, 40_000, 3), np.uint8), "PNG"))


def test_any_file_name_is_read_and_can_be_printed(tmp_path):
    for name in (b"caf\xe9.png", b"new\nline.png", b"\xff\xfe.png", "größe.png".encode()):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        path.write_bytes(encoded(FACE, "PNG"))
        np.testing.assert_array_equal(read_picture(path), FACE)
        write_picture(path, FACE)
        np.testing.assert_array_equal(read_picture(path), FACE[..., ::-1])
        printable(path).encode()
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(tmp_path / "x.nothing", FACE)
    assert printable(os.fsdecode(b"caf\xe9 gr\xc3\xb6\xc3\x9fe")) == "caf\\xe9 größe"


def test_what_is_no_picture_says_so_and_blocks_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "words.png").write_text("text")
    (tmp_path / "empty.png").touch()
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(2**31)
    for name, text in {
        "pipe.png": "not a file", "words.png": "not a picture", "empty.png": "empty", "large.png": "2048 MiB",
        "gone.png": "No such file", ".": "not a file|directory",
    }.items():  # fmt: skip
        with pytest.raises(PictureError, match=text):
            read_picture(tmp_path / name)


def test_a_folder_gives_pictures_in_the_order_of_their_numbers_and_names_hidden_ones(tmp_path):
    for name in ("10.png", "2.PNG", "a1b10.jpg", "a1b9.jpg", "a01b9.jpg", "x.txt", ".x.jpg", "._2.PNG", "folder.png"):
        (tmp_path / name).mkdir() if name == "folder.png" else (tmp_path / name).touch()
    (tmp_path / "z.png").symlink_to("nowhere")
    (tmp_path / "zz.png").symlink_to("folder.png")
    pictures, hidden = pictures_in(tmp_path.iterdir())
    assert pictures.pop().name == "z.png", "whoever reads it says that it leads nowhere"
    names = [path.name for path in pictures]
    assert names[:2] == ["2.PNG", "10.png"] and set(names[2:4]) == {"a1b9.jpg", "a01b9.jpg"} and names[4] == "a1b10.jpg"
    assert {path.name for path in hidden} == {".x.jpg", "._2.PNG"}
    assert sorted(map(Path, ["2/a", "10/a", "b", "1²"]), key=natural_key) == [*map(Path, ["1²", "2/a", "10/a", "b"])]


def test_sixteen_bits_and_grey_become_eight_bits_of_colour(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    rgb = decode_picture(cv2.imencode(".png", grey)[1].tobytes())
    assert rgb.shape == (64, 64, 3) and (rgb[0, 0] == 0).all() and (rgb[-1, -1] == 255).all()


def test_cameras_that_leave_the_end_mark_out_are_read_without_a_word(capfd):
    data = encoded(FACE)[:-2] + bytes(4096)
    decode_picture(data)
    assert capfd.readouterr().err == ""
