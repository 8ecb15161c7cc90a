"""What a representation does, as pictures: numpy on the host, uint8 [H, W, 3] out.

Similarity of positions and principal components of patch filters are those of figure 7 in
A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai et al., "An Image is Worth
16x16 Words", 2020, https://arxiv.org/abs/2010.11929; attention rollout is from S. Abnar,
W. Zuidema, "Quantifying Attention Flow in Transformers", 2020,
https://arxiv.org/abs/2005.00928.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from vision.visualize import BLACK, WHITE, as_rgb, caption, fit, grid, label_name

# Any two are far apart in CIELAB, the earlier ones further; none is close to white.
PALETTE = (
    (45, 115, 195),
    (225, 55, 50),
    (50, 160, 70),
    (250, 150, 30),
    (130, 80, 190),
    (30, 225, 240),
    (105, 75, 15),
    (255, 0, 255),
    (195, 210, 0),
    (255, 165, 210),
    (15, 90, 45),
    (0, 0, 255),
    (255, 0, 150),
    (210, 195, 120),
    (135, 45, 75),
    (0, 225, 0),
    (225, 135, 105),
    (120, 135, 0),
    (135, 15, 210),
    (255, 120, 240),
)
_BETWEEN_FILTERS = (150, 175, 215)  # neither grey nor white, as filters are
_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates


def heat(values: np.ndarray) -> np.ndarray:
    """Colours of numbers, dark blue for 0 to yellow for 1, evenly to the eye.

    Args:
        values: float [H, W]; clipped to 0..1, what is not finite is 0.

    Returns:
        uint8 [H, W, 3].
    """
    values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    levels = np.round(255 * values).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Of each with each: float [N, D] -> float64 [N, N]; a vector of zeros has 0."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(norms > 0, norms, 1)
    return vectors @ vectors.T


def position_similarity(
    positions: np.ndarray, grid_shape: tuple[int, int], *, size: int = 560
) -> np.ndarray:
    """Cosine similarity of the embedding of each position with those of all.

    The tile at row i, column j is a map of the image: how similar is the embedding of each
    position to that of (i, j)? Colours run from -1 to 1.

    Args:
        positions: float [h * w, D], row by row.
        grid_shape: (h, w).
        size: of the longer side of the tiles together, about, in pixels.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: the number of positions is not h * w.
    """
    h, w = grid_shape
    if len(positions) != h * w:
        raise ValueError(
            f"{len(positions)} positions for a grid of {h}x{w}; leave out those of the "
            "class token and the like"
        )
    colors = heat((cosine_similarity(positions) + 1) / 2).reshape(h * w, h, w, 3)
    longest = max(h, w)
    gap = 2 if longest > 10 else 6  # wider than between cells that can be told apart
    cell = max(1, round((size / longest - gap) / longest))
    tiles = [c.repeat(cell, axis=0).repeat(cell, axis=1) for c in colors]
    body = grid(tiles, columns=w, gap=gap)
    bar = color_bar(body.shape[0], ("-1", "0", "1"))
    body = np.concatenate([body, bar], axis=1)
    lines = ("cosine similarity of each position", "(its tile) with all others")
    text = [" ".join(lines)] if body.shape[1] >= 480 else lines
    return stack([*(_line(line, body.shape[1]) for line in text), body])


def color_bar(height: int, ticks: Sequence[str]) -> np.ndarray:
    """The colours of `heat` from 0 below to 1 above, with evenly spaced ticks.

    Returns:
        uint8 [height, W', 3].
    """
    margin = min(8, height // 4)
    length = height - 2 * margin
    colors = heat(np.linspace(1, 0, length)[:, None]).repeat(14, axis=1)
    texts = [_line(tick, 40) for tick in ticks]
    bar = np.full((height, 64, 3), 255, np.uint8)
    bar[margin : margin + length, 8:22] = colors
    for i, text in enumerate(texts):
        middle = margin + round((length - 1) * (1 - i / max(1, len(texts) - 1)))
        bar[middle, 22:26] = BLACK
        top = min(max(0, middle - len(text) // 2), max(0, height - len(text)))
        part = bar[top : top + len(text), 27 : 27 + 37]
        part[:] = np.minimum(part, text[: len(part), :37])
    return bar


def attention_rollout(weights: Sequence[np.ndarray]) -> np.ndarray:
    """How much of each input token reaches each output token, by attention and shortcuts.

    Heads are averaged, a layer keeps half of each token as it is, and layers multiply.

    Args:
        weights: float [B, N, T, T] per layer, the first first; rows sum to 1.

    Returns:
        float64 [B, T, T]; rows sum to 1.
    """
    rollout = np.eye(weights[0].shape[-1])
    for layer in weights:
        mean = np.asarray(layer, np.float64).mean(1)
        rollout = (mean + np.eye(mean.shape[-1])) / 2 @ rollout
    return rollout


def attention_maps(
    images: np.ndarray,
    weights: np.ndarray,
    grid_shape: tuple[int, int],
    *,
    rollout: np.ndarray | None = None,
    size: int = 96,
    max_heads: int = 16,
) -> np.ndarray:
    """Where a token looks: a row for each image, a column for each head and their mean.

    Every map is brighter where there is more attention, from none to its own maximum, and
    lies over the image in grey.

    Args:
        images: uint8 [B, H, W, C], B >= 1.
        weights: float [B, N, h * w], of the class token, say, to the patches.
        grid_shape: (h, w).
        rollout: float [B, h * w]; another column.
        size: of the longer side of an image in pixels.
        max_heads: the first so many get a column.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: the number of patches is not h * w.
    """
    h, w = grid_shape
    if weights.shape[-1] != h * w:
        raise ValueError(
            f"weights of {weights.shape[-1]} patches for a grid of {h}x{w}; leave out "
            "those of the class token and the like"
        )
    maps = {"mean": weights.mean(1)}
    if rollout is not None:
        maps["rollout"] = rollout
    maps |= {
        f"head {n}": weights[:, n] for n in range(min(weights.shape[1], max_heads))
    }
    columns = {"image": [_resized(image, size) for image in images]}
    for name, values in maps.items():
        pairs = zip(images, values, strict=True)
        columns[name] = [overlay(i, v.reshape(h, w), size) for i, v in pairs]
    width = columns["image"][0].shape[1]
    gap = np.full((3, width, 3), 255, np.uint8)
    tiles = []
    for name, column in columns.items():
        rows = [part for tile in column for part in (tile, gap)]
        tiles.append(np.concatenate([_line(name, width), *rows[:-1]]))
    return grid(tiles, columns=len(tiles), gap=3)


def overlay(image: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """A map over an image in grey.

    Args:
        image: uint8 [H, W, C].
        values: float [h, w], not negative; the largest is the brightest.
        size: of the longer side in pixels.

    Returns:
        uint8 [H', W', 3].
    """
    image = _resized(image, size)
    shape = image.shape[1::-1]
    values = np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)
    values = cv2.resize(values, shape, interpolation=cv2.INTER_LINEAR)
    colors = heat(values / max(values.max(), 1e-12))
    grey = image.mean(-1, keepdims=True)
    return np.round(0.7 * colors + 0.3 * grey).astype(np.uint8)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """As `visualize.fit`, but no square around it."""
    shape = np.array(image.shape[:2])
    height, width = np.maximum(1, np.round(shape * size / shape.max()).astype(int))
    top, left = (size - height) // 2, (size - width) // 2
    return fit(as_rgb(image), size)[top : top + height, left : left + width]


def filters(
    kernel: np.ndarray, *, first: int = 64, components: int = 0, size: int = 56
) -> np.ndarray:
    """The filters of a first layer, and what they have in common.

    Grey is 0. All filters share one scale; every principal component fills its own.

    Args:
        kernel: float [P, Q, C, D]; D filters on C channels, of which up to 3 are shown.
        first: the first so many filters are shown.
        components: also so many principal components of all D filters, at most.
        size: of the longer side of a filter in pixels, about.

    Returns:
        uint8 [H', W', 3].
    """
    P, Q, C, D = kernel.shape
    kernel = np.nan_to_num(np.asarray(kernel, np.float32))
    size = max(1, round(size / max(P, Q))) * max(P, Q)  # pixels of one size
    # A few outliers would make all the others grey.
    scale = np.quantile(np.abs(kernel), 0.998)
    shown = kernel.transpose(3, 0, 1, 2)[:first] / max(scale, 1e-12)
    panels = [(f"{len(shown)} of {D} filters, {P}x{Q}x{C}", shown)]
    if components:
        _, axes = principal_components(kernel.reshape(-1, D).T, components)
        axes = axes / np.abs(axes).max(1, keepdims=True)
        panels.append((f"{len(axes)} principal components", axes.reshape(-1, P, Q, C)))
    drawn = []
    for text, values in panels:
        levels = np.round(127.5 + 127.5 * values.clip(-1, 1)).astype(np.uint8)
        tiles = [fit(as_rgb(x), size) for x in levels]
        columns = None if len(tiles) < 16 else 8 * -(-len(tiles) // 128)
        picture = grid(tiles, columns=columns, gap=3, background=_BETWEEN_FILTERS)
        drawn += [_line(text, max(picture.shape[1], 240)), picture]
    return stack(drawn)


def principal_components(
    values: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The directions of most variance, by a singular value decomposition.

    The largest number of every direction is positive, so that the same values give the
    same picture wherever they are computed.

    Args:
        values: float [N, D], N >= 1, finite.
        count: how many directions; fewer if N or D is less.

    Returns:
        The values' coordinates, float64 [N, count], and the directions, [count, D].
    """
    values = np.asarray(values, np.float64)
    values = values - values.mean(0)
    axes = np.linalg.svd(values, full_matrices=False)[2][:count]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1, 1)
    return values @ axes.T, axes


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    title: str = "",
    *,
    size: int = 560,
) -> np.ndarray:
    """Coloured dots and a legend; one unit is as long on both axes.

    Args:
        points: float [N, 2], N >= 1, finite.
        labels: int [N], classes; None for dots of one colour and no legend.
        class_names: one per class; empty shows numbers.
        title: a line above.
        size: side of the square of dots in pixels.

    Returns:
        uint8 [H', W', 3].
    """
    classes = [] if labels is None else np.unique(labels).tolist()
    colors = _class_colors(classes)
    canvas = np.full((size, size, 3), 255, np.uint8)
    radius = float(np.clip(110 / np.sqrt(len(points)), 2.5, 7))
    margin = 3 * radius
    low, high = points.min(0), points.max(0)
    unit = (size - 2 * margin) / max((high - low).max(), 1e-12)
    places = size / 2 + (points - (low + high) / 2) * unit * (1, -1)  # y grows upwards
    # In a random order: no class hides another.
    for i in np.random.default_rng(0).permutation(len(points)):
        color = PALETTE[0] if labels is None else colors[int(labels[i])]
        _dot(canvas, places[i], radius, color)
    canvas = cv2.copyMakeBorder(
        canvas, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(200, 200, 200)
    )
    if classes:
        legend = _legend(classes, colors, class_names, canvas.shape[0])
        canvas = np.concatenate([canvas, legend], axis=1)
    canvas = cv2.copyMakeBorder(canvas, 4, 8, 8, 8, cv2.BORDER_CONSTANT, value=WHITE)
    return stack([_line(title, canvas.shape[1]), canvas]) if title else canvas


def _class_colors(classes: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Of a class that `PALETTE` numbers its own, whatever other classes are there."""
    if not classes or (min(classes) >= 0 and max(classes) < len(PALETTE)):
        return {c: PALETTE[c] for c in classes}
    if len(classes) <= len(PALETTE):
        return dict(zip(classes, PALETTE, strict=False))
    # Too many to tell apart; neighbours in number differ in hue and lightness.
    colors = {}
    for i, c in enumerate(classes):
        hue = np.uint8([[[i * 180 / len(classes), 220, (225, 170, 120)[i % 3]]]])
        found = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
        colors[c] = tuple(int(v) for v in found)
    return colors


def _legend(
    classes: Sequence[int],
    colors: dict[int, tuple[int, int, int]],
    class_names: Sequence[str],
    height: int,
) -> np.ndarray:
    """Dots with names below each other, as many as fit: uint8 [height, 150, 3]."""
    row, width = 24, 150
    legend = np.full((height, width, 3), 255, np.uint8)
    fitting = height // row
    shown = classes if len(classes) <= fitting else classes[: fitting - 1]
    for i, c in enumerate(shown):
        _dot(legend, (20, (i + 0.5) * row), 6, colors[c])
        text = _line(label_name(c, class_names), width - 32)
        legend[i * row : i * row + len(text), 32:] = text
    if len(shown) < len(classes):
        text = _line(f"and {len(classes) - len(shown)} more", width - 10)
        top = len(shown) * row
        legend[top : top + len(text), 10:] = text
    return legend


def _dot(canvas, center, radius: float, color: tuple[int, int, int]) -> None:
    """A smooth disc with a thin white rim, at a fraction of a pixel."""
    factor = 1 << _SUBPIXEL
    x, y = (round(float(v) * factor) for v in center)
    for r, fill in ((radius + 0.8, WHITE), (radius, color)):
        cv2.circle(
            canvas, (x, y), round(r * factor), fill, -1, cv2.LINE_AA, shift=_SUBPIXEL
        )


def _line(text: str, width: int) -> np.ndarray:
    return caption(text, width, color=BLACK, background=WHITE)


def stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, the narrower ones with white at their right.

    Args:
        parts: uint8 [H, W, 3] each.

    Returns:
        uint8 [sum of H, largest W, 3].
    """
    width = max(part.shape[1] for part in parts)
    pads = [((0, 0), (0, width - part.shape[1]), (0, 0)) for part in parts]
    padded = [
        np.pad(p, pad, constant_values=255) for p, pad in zip(parts, pads, strict=True)
    ]
    return np.concatenate(padded)
