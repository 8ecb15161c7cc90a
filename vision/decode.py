"""Encoded pictures to uint8 [H, W, C], decoding no more than is asked for.

JPEG goes through libjpeg-turbo (`simplejpeg`) with its fast transform and upsampling,
whose values differ from the exact ones by about one grey level on average; everything
else, and JPEG in the four colours of print, goes through OpenCV. An orientation in the
file's metadata is not applied, as is the custom with ImageNet; transparency is dropped.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

# Threads work on different pictures. OpenCV's own, inside each call, would be in excess.
cv2.setNumThreads(0)

_START, _END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
# Fewer rows than this are not worth a copy of the file.
_MIN_ROWS_SAVED = 16


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class JpegHeader(NamedTuple):
    """What a JPEG file says of itself."""

    height: int
    width: int
    components: int
    progressive: bool
    height_offset: int


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Finds the frame header; checks that the file goes on to its end marker.

    Returns:
        None if the data is no JPEG of a kind that libjpeg-turbo reads.

    Raises:
        ValueError: if the file is cut short. (The decoder would fill in grey.)
    """
    if data[:2] != _START:
        return None
    header, place = None, 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker in (_BASELINE, _EXTENDED, _PROGRESSIVE) and place + 10 <= len(data):
            height = int.from_bytes(data[place + 5 : place + 7], "big")
            width = int.from_bytes(data[place + 7 : place + 9], "big")
            progressive = marker == _PROGRESSIVE
            header = JpegHeader(height, width, data[place + 9], progressive, place + 5)
        elif marker == _START_OF_SCAN:
            # Inside a scan the end marker cannot occur by chance; inside the metadata
            # before it, it can: a thumbnail has one.
            if data.rfind(_END_OF_IMAGE, place) < 0:
                raise ValueError("truncated JPEG: it has no end marker")
            return header if header and header.height and header.width else None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    raise ValueError("truncated JPEG: it ends within its header")


def decode(data: bytes, channels: int = 3) -> np.ndarray:
    """A whole picture.

    Args:
        data: a file's content.
        channels: 3 for red, green, blue; 1 for grey.

    Returns:
        uint8 [H, W, channels].

    Raises:
        ValueError: if the data is no picture, or a damaged one.
    """
    header = read_jpeg_header(data)
    if header is None or header.components not in (1, 3):
        return _decode_other(data, channels)
    return _decode_jpeg(data, channels)


def decode_box(
    data: bytes, header: JpegHeader, box: Box, channels: int, least: tuple[int, int]
) -> np.ndarray:
    """A part of a JPEG picture of one or three components, perhaps scaled down.

    Rows below the box are not decoded (unless the file is progressive). If the box is at
    least twice, four or eight times `least`, it is decoded at that fraction of its size.

    Args:
        least: (height, width) that the result has to have at least.

    Returns:
        uint8 [h, w, channels], where h:w is the box's shape.
    """
    rows = header.height
    bottom = box.top + box.height
    if not header.progressive and rows - bottom >= _MIN_ROWS_SAVED:
        # A baseline file is decoded row by row: one that calls itself shorter is read
        # only so far.
        shortened = bytearray(data)
        place = header.height_offset
        shortened[place : place + 2] = bottom.to_bytes(2, "big")
        data, rows = shortened, bottom
    factor = min(box.height // least[0], box.width // least[1], 8)
    if factor < 2:
        pixels = _decode_jpeg(data, channels)
        return pixels[box.top : bottom, box.left : box.left + box.width]
    factor = 1 << (factor.bit_length() - 1)  # 2, 4 or 8
    smaller = (-(-rows // factor), -(-header.width // factor))
    pixels = _decode_jpeg(data, channels, smaller, factor)
    top, left = round(box.top / factor), round(box.left / factor)
    height, width = round(box.height / factor), round(box.width / factor)
    return pixels[top : top + height, left : left + width]


def pixels(example: Mapping[str, Any], key: str) -> np.ndarray:
    """The picture in a field, which has to be decoded."""
    image = example[key]
    if isinstance(image, bytes):
        raise TypeError(
            f"{key!r} is still encoded; put dict(type='vision.transforms.Decode') "
            "before the other transforms"
        )
    return image


def convert_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [H, W, 1, 3 or 4] to [H, W, channels]; grey is the luma of BT.601."""
    if pixels.shape[-1] == channels:
        return pixels
    conversions = {
        (1, 3): cv2.COLOR_GRAY2RGB,
        (3, 1): cv2.COLOR_RGB2GRAY,
        (4, 1): cv2.COLOR_RGBA2GRAY,
        (4, 3): cv2.COLOR_RGBA2RGB,
    }
    code = conversions.get((pixels.shape[-1], channels))
    if code is None:
        raise ValueError(
            f"cannot make {channels} channels of {pixels.shape[-1]}; ask for 1 or 3"
        )
    return cv2.cvtColor(pixels, code).reshape(*pixels.shape[:2], channels)


def _decode_jpeg(
    data: bytes | bytearray,
    channels: int,
    least: tuple[int, int] = (0, 0),
    factor: int = 1,
) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if channels == 1 else "RGB",
            fastdct=True,
            fastupsample=True,
            min_height=least[0],
            min_width=least[1],
            min_factor=factor,
            strict=False,  # stray bytes between markers are common and do no harm
        )
    except ValueError as error:
        raise ValueError(f"damaged JPEG: {error}") from error


def _decode_other(data: bytes, channels: int) -> np.ndarray:
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data.rfind(b"IEND") < 0:
        raise ValueError("truncated PNG: it has no end chunk")
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    pixels = None
    if data:
        encoded = np.frombuffer(data, np.uint8)
        try:
            pixels = cv2.imdecode(encoded, kind | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pass  # a size that no picture has, say
    if pixels is None:
        raise ValueError(
            f"not a picture that can be decoded ({len(data)} bytes, beginning with "
            f"{bytes(data[:4])!r})"
        )
    if channels == 1:
        return pixels[..., None]
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
