import cv2
import numpy as np
import pytest
import simplejpeg

from data.features import Image
from vision import decode as decoding
from vision.decode import Box, convert_channels, decode, decode_box, read_jpeg_header


def photo(height=150, width=200, channels=3, encoding="jpeg"):
    return Image(height, width, channels, encoding).sample(np.random.default_rng(0))


def encode(pixels, extension, *parameters):
    done, encoded = cv2.imencode(extension, pixels, parameters)
    assert done
    return encoded.tobytes()


def test_colour_png_is_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), ".png")
    np.testing.assert_array_equal(decode(data), pixels)


def test_colour_jpeg_is_close_and_its_channels_are_red_green_blue():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:] = (250, 120, 10)
    data = encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), ".jpg")
    assert np.abs(decode(data).astype(int) - pixels).max() <= 3
    data = photo()
    exact = simplejpeg.decode_jpeg(data).astype(int)
    assert np.abs(decode(data) - exact).mean() < 3


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_as_asked(encoding, stored, channels):
    pixels = decode(photo(20, 30, stored, encoding), channels)
    assert pixels.shape == (20, 30, channels)
    assert pixels.dtype == np.uint8
    other = decode(photo(20, 30, stored, encoding), 4 - channels)
    grey = [p if p.shape[-1] == 1 else convert_channels(p, 1) for p in (pixels, other)]
    assert np.abs(grey[0].astype(int) - grey[1]).mean() < 1


def test_transparency_is_dropped_and_sixteen_bits_are_halved():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    bgra = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=-1)
    np.testing.assert_array_equal(decode(encode(bgra, ".png")), pixels[..., :3])
    deep = pixels[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(
        decode(encode(deep, ".png"), 1)[..., 0], pixels[..., 0]
    )


def test_print_colours_are_converted():
    cmyk = np.zeros((16, 16, 4), np.uint8)
    data = simplejpeg.encode_jpeg(cmyk, colorspace="CMYK", colorsubsampling="444")
    assert read_jpeg_header(data).components == 4
    pixels = decode(data)
    assert pixels.shape == (16, 16, 3)
    # Four equal inks: no hue, whichever way the file counts ink.
    assert np.ptp(pixels.astype(int), axis=-1).max() <= 2
    assert decode(data, 1).shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("ink", "color"),
    [
        # As every program stores it, 255 is no ink at all.
        ((255, 255, 255, 255), (255, 255, 255)),
        ((255, 255, 255, 0), (0, 0, 0)),
        ((0, 255, 255, 255), (0, 255, 255)),
        ((255, 51, 102, 128), (128, 26, 51)),
    ],
)
def test_ink_is_taken_from_white(ink, color):
    pixels = np.full((16, 16, 4), ink, np.uint8)
    data = simplejpeg.encode_jpeg(pixels, colorspace="CMYK", colorsubsampling="444")
    assert np.abs(decode(data).astype(int) - color).max() <= 2


def test_colours_of_sixteen_bits_keep_their_upper_eight():
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), np.uint16)
    for channels in (3, 4):
        data = encode(np.ascontiguousarray(deep[..., :channels]), ".png")
        expected = deep[..., 2::-1] >> 8  # OpenCV's order is blue, green, red
        assert decode(data).dtype == np.uint8
        assert np.abs(decode(data).astype(int) - expected).max() <= 1


def test_a_picture_one_pixel_wide():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 3), np.uint8)
    data = encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), ".png")
    np.testing.assert_array_equal(decode(data), pixels)
    data = encode(np.full((40, 1, 3), 90, np.uint8), ".jpg")
    assert decode(data).shape == (40, 1, 3)
    assert np.abs(decode(data).astype(int) - 90).max() <= 2
    part = decode_box(data, read_jpeg_header(data), Box(0, 0, 40, 1), 3, (20, 20))
    assert part.shape == (40, 1, 3)


def test_a_gif_is_its_first_picture_or_an_error():
    # By hand: 2 x 2 pixels, red, of two colours.
    data = (
        b"GIF89a\x02\x00\x02\x00\x80\x00\x00\xff\x00\x00\x00\x00\xff"
        b",\x00\x00\x00\x00\x02\x00\x02\x00\x00\x02\x04\x04\x41\x10\x05\x00;"
    )
    try:
        pixels = decode(data)
    except ValueError as error:  # OpenCV may be built without it
        assert "not a picture" in str(error) and "GIF8" in str(error)
    else:
        np.testing.assert_array_equal(pixels, np.full((2, 2, 3), (255, 0, 0)))


def exif_orientation(data: bytes) -> bytes:
    """The file with the remark that it lies on its side, and a thumbnail's end marker."""
    tiff = (
        b"MM\0*\0\0\0\x08"
        + b"\0\x01"
        + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
        + bytes(4)
    )
    body = b"Exif\0\0" + tiff + b"\xff\xd9"
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def test_orientation_is_not_applied_whoever_decodes():
    data = exif_orientation(photo(20, 30))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[0] == 30
    assert decode(data).shape[0] == 20
    assert decoding._decode_other(data, 3).shape[0] == 20


def test_a_header_tells_size_and_kind():
    header = read_jpeg_header(photo())
    assert (header.height, header.width, header.components) == (150, 200, 3)
    assert not header.progressive
    assert read_jpeg_header(photo(encoding="png")) is None
    pixels = simplejpeg.decode_jpeg(photo())
    data = encode(pixels, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert read_jpeg_header(data).progressive


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, -2, -12])
def test_a_truncated_file_is_an_error(encoding, share):
    data = photo(encoding=encoding)
    if encoding == "jpeg":
        data = exif_orientation(data)
    cut = share if share < 0 else int(len(data) * share)
    with pytest.raises(ValueError, match="truncated|not a picture") as caught:
        decode(data[:cut])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"hello world", b"\xff\xd8\xff\xd9", bytes(100)])
def test_what_is_no_picture_is_an_error(data):
    with pytest.raises(ValueError, match="truncated|not a picture"):
        decode(data)


def test_a_damaged_header_is_an_error():
    data = bytearray(photo())
    place = data.index(b"\xff\xc4")  # the first Huffman table
    data[place + 4 : place + 24] = b"\xff" * 20
    with pytest.raises(ValueError, match="damaged JPEG"):
        decode(bytes(data))


def test_stray_bytes_are_borne():
    data = photo()
    np.testing.assert_array_equal(
        decode(data[:-2] + b"stray" + data[-2:]), decode(data)
    )
    np.testing.assert_array_equal(decode(data + bytes(99)), decode(data))


BOXES = [Box(0, 0, 150, 200), Box(3, 5, 60, 70), Box(80, 130, 70, 70), Box(9, 9, 1, 1)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_a_part_equals_the_part_of_the_whole(box, channels, subsampling):
    pixels = simplejpeg.decode_jpeg(photo())
    data = simplejpeg.encode_jpeg(pixels, colorsubsampling=subsampling)
    top, left, height, width = box
    whole = decode(data, channels)[top : top + height, left : left + width]
    part = decode_box(data, read_jpeg_header(data), box, channels, least=(140, 140))
    np.testing.assert_array_equal(part, whole)


def test_a_part_of_a_progressive_file():
    pixels = simplejpeg.decode_jpeg(photo())
    data = encode(pixels, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    part = decode_box(data, read_jpeg_header(data), BOXES[1], 3, least=(64, 64))
    np.testing.assert_array_equal(part, decode(data)[3:63, 5:75])


def test_rows_below_a_part_are_not_decoded(monkeypatch):
    seen = []
    monkeypatch.setattr(
        decoding,
        "_decode_jpeg",
        lambda data, *rest: seen.append(bytes(data)) or np.empty((0,) * 3),
    )
    data = photo()
    decode_box(data, read_jpeg_header(data), Box(3, 5, 60, 70), 3, least=(64, 64))
    decode_box(data, read_jpeg_header(data), Box(0, 0, 150, 200), 3, least=(150, 150))
    assert [read_jpeg_header(d).height for d in seen] == [63, 150]


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((71, 70), (140, 160)),
        ((70, 70), (70, 80)),
        ((35, 40), (35, 40)),
        ((1, 1), (18, 20)),
    ],
)
@pytest.mark.parametrize("height", [150, 200])
def test_a_large_part_is_decoded_at_a_fraction(least, shape, height):
    data = photo(height, 200)
    box = Box(8, 16, 140, 160)
    part = decode_box(data, read_jpeg_header(data), box, 3, least)
    assert part.shape == (*shape, 3)
    whole = decode(data)[8:148, 16:176]
    expected = cv2.resize(whole, shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(part.astype(int) - expected).mean() < 7


def test_arrays_of_other_channels_are_refused():
    assert convert_channels(np.zeros((2, 3, 4), np.uint8), 3).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="cannot make 2 channels of 3"):
        convert_channels(np.zeros((2, 3, 3), np.uint8), 2)
