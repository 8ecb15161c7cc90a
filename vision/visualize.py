"""Arrays to pictures: everything here is numpy on the host, uint8 [H, W, 3] out."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

GREEN = (46, 160, 67)
RED = (215, 58, 73)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
GREY = 128  # of what a model does not see
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def denormalize(
    image: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Undoes `(image / 255 - mean) / std`.

    Args:
        image: float [..., C].
        mean, std: one value or C values, for images in [0, 1].

    Returns:
        uint8 [..., C]; values outside the range are clipped, NaN becomes 0.
    """
    image = np.asarray(image, np.float32) * np.float32(std) + np.float32(mean)
    image = np.nan_to_num(image, nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(255 * image.clip(0, 1)).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """An image of any channel count as three channels.

    Args:
        image: uint8 [H, W], [H, W, 1], [H, W, 2] (blue stays 0), [H, W, 3] or more
            channels, of which the first three are shown.

    Returns:
        uint8 [H, W, 3].
    """
    image = image[..., None] if image.ndim == 2 else image
    channels = image.shape[-1]
    if channels == 1:
        return np.repeat(image, 3, axis=-1)
    if channels == 2:
        return np.pad(image, ((0, 0), (0, 0), (0, 1)))
    return np.ascontiguousarray(image[..., :3])


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """The image in a black square, enlarged or reduced to fill it, aspect kept.

    Small images are enlarged by repeating pixels, so that a digit of 8x8 shows its pixels.

    Args:
        image: uint8 [H, W, 3].
        size: side of the square in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width = max(1, round(width * scale))
    new_height = max(1, round(height * scale))
    how = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    image = cv2.resize(image, (new_width, new_height), interpolation=how)
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = image
    return square


def caption(
    text: str,
    width: int,
    *,
    height: int = 22,
    color: tuple[int, int, int] = WHITE,
    background: tuple[int, int, int] = BLACK,
) -> np.ndarray:
    """A strip with one line of text, cut short with '..' where it does not fit.

    Returns:
        uint8 [height, width, 3].
    """
    strip = np.full((height, width, 3), background, np.uint8)
    scale = height / 44
    # The built-in font knows ASCII only.
    text = text.encode("ascii", "replace").decode()

    def measure(line: str) -> int:
        return cv2.getTextSize(line, _FONT, scale, 1)[0][0]

    if measure(text) > width - 6:
        while text and measure(text + "..") > width - 6:
            text = text[:-1]
        text += ".."
    baseline = round(height * 0.68)
    cv2.putText(strip, text, (3, baseline), _FONT, scale, color, 1, cv2.LINE_AA)
    return strip


def grid(
    tiles: Sequence[np.ndarray],
    *,
    columns: int | None = None,
    gap: int = 4,
    background: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """Tiles of one size, row by row, about as wide as high.

    Args:
        tiles: uint8 [H, W, 3] each, at least one.
        columns: tiles per row; None takes the square root of their number.

    Returns:
        uint8 [H', W', 3].
    """
    if not tiles:
        raise ValueError("no tiles; a grid needs at least one picture")
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles[0].shape[:2]
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    canvas = np.full(shape, background, np.uint8)
    for index, tile in enumerate(tiles):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def triplets(
    masked: np.ndarray,
    reconstruction: np.ndarray,
    original: np.ndarray,
    *,
    max_images: int = 16,
    size: int = 96,
    columns: int | None = None,
) -> np.ndarray:
    """What a model saw, what it made of it and the truth, side by side for each image.

    The layout is that of K. He et al., "Masked Autoencoders Are Scalable Vision Learners",
    2021, https://arxiv.org/abs/2111.06377, figure 2: a wide gap between the triplets and a
    narrow one within.

    Args:
        masked, reconstruction, original: uint8 [N, H, W, C], N >= 1; any C.
        max_images: the first so many are shown.
        size: side of one picture in pixels.
        columns: triplets per row; None makes the whole about as wide as high.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: the three differ in the number of images.
    """
    counts = len(masked), len(reconstruction), len(original)
    if len(set(counts)) > 1:
        raise ValueError(
            f"{counts[0]} masked images, {counts[1]} reconstructions and {counts[2]} "
            "originals; give one of each per image"
        )
    within, between = max(1, size // 48), max(4, size // 8)
    # Each triplet without the frame that `grid` puts around it.
    inner, tiles = slice(within, -within), []
    for i in range(min(counts[0], max_images)):
        row = [fit(as_rgb(x[i]), size) for x in (masked, reconstruction, original)]
        tiles.append(grid(row, columns=3, gap=within)[inner, inner])
    columns = columns or max(1, round(math.sqrt(len(tiles) / 3)))
    return grid(tiles, columns=columns, gap=between)


def label_name(label: int, class_names: Sequence[str] = ()) -> str:
    """The name of a class, or its number where it has none."""
    return str(class_names[label]) if 0 <= label < len(class_names) else str(label)


def predictions(
    images: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str] = (),
    confidence: np.ndarray | None = None,
    max_images: int = 16,
    size: int = 112,
) -> np.ndarray:
    """A grid of images framed and captioned green where the guess is right, else red.

    The caption is the guess (with its probability); a wrong one is followed by a second
    line with the true class.

    Args:
        images: uint8 [B, H, W, C], B >= 1; any size and channel count.
        predicted: int [B].
        labels: int [B].
        class_names: one per class; empty shows numbers.
        confidence: float [B] in 0..1.
        max_images: the first so many are shown.
        size: side of one picture in pixels.

    Returns:
        uint8 [H', W', 3].
    """
    tiles = []
    for index in range(min(len(images), max_images)):
        guess, truth = int(predicted[index]), int(labels[index])
        color = GREEN if guess == truth else RED
        text = label_name(guess, class_names)
        if confidence is not None:
            text += f" {100 * float(confidence[index]):.0f}%"
        picture = fit(as_rgb(images[index]), size)
        picture = cv2.copyMakeBorder(
            picture, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=color
        )
        width = picture.shape[1]
        below = "" if guess == truth else f"is {label_name(truth, class_names)}"
        tiles.append(
            np.concatenate(
                [
                    picture,
                    caption(text, width, background=color),
                    caption(below, width, background=WHITE, color=RED),
                ]
            )
        )
    return grid(tiles)
