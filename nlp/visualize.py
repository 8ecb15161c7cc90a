"""Text and attention to pictures: numpy on the host, uint8 [H, W, 3] out.

The alignment map is figure 3 of D. Bahdanau, K. Cho, Y. Bengio, "Neural Machine Translation
by Jointly Learning to Align and Translate", 2014, https://arxiv.org/abs/1409.0473; words on a
coloured ground are those of Z. Lin et al., "A Structured Self-attentive Sentence Embedding",
2017, https://arxiv.org/abs/1703.03130, figure 2.
"""

import html
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
LINE = 20  # pixels from one line of text to the next
# Dark enough for lines on white, and apart for any colour vision (P. Tol's "bright").
PALETTE = (
    (68, 119, 170),
    (238, 102, 119),
    (34, 136, 51),
    (170, 51, 119),
    (204, 187, 68),
    (102, 204, 238),
)
_READABLE = 15  # the least height of a cell that has a word beside it
_LONGEST = 130  # words on an axis are cut there, in pixels
_BETWEEN_CELLS = (40, 40, 60)
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # older fonts know ASCII only
_SPELLED = {
    "ä": "ae",
    "ö": "oe",
    "ü": "ue",
    "Ä": "Ae",
    "Ö": "Oe",
    "Ü": "Ue",
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "–": "-",
    "—": "-",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "«": '"',
    "»": '"',
    "…": "...",
    "€": "EUR",
    "▁": "_",
    "Ġ": "_",
}


def spell(text: str) -> str:
    """Text in ASCII: umlauts as two letters, accents dropped, what remains as '?'."""
    text = "".join(_SPELLED.get(c, c) for c in unicodedata.normalize("NFC", text))
    bare = [
        c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)
    ]
    return "".join(bare).encode("ascii", "replace").decode()


def _drawable(text: str) -> str:
    """In one line, in letters that the installed font has."""
    text = text.replace("\t", "    ").replace("\r", "").replace("\n", "\\n")
    return text if _UNICODE else spell(text)


def text_width(text: str) -> int:
    """Of a line of text, in pixels."""
    return cv2.getTextSize(_drawable(text), _FONT, _SCALE, 1)[0][0]


def line(
    text: str,
    width: int | None = None,
    *,
    color: tuple[int, int, int] = BLACK,
    background: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """One line of text, cut short with '..' where it does not fit.

    Args:
        text: of any script; where OpenCV is older than 5, spelled in ASCII.
        width: in pixels; None for as wide as the text.

    Returns:
        uint8 [LINE, width, 3].
    """
    text = _drawable(text)
    if width is not None and text_width(text) > width - 6:
        while text and text_width(text + "..") > width - 6:
            text = text[:-1]
        text += ".."
    strip = np.full((LINE, width or text_width(text) + 6, 3), background, np.uint8)
    at = (3, round(LINE * 0.7))
    cv2.putText(strip, text, at, _FONT, _SCALE, color, 1, cv2.LINE_AA)
    return strip


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, long words anywhere."""
    lines = []
    for paragraph in text.split("\n"):
        current = None
        for word in paragraph.split(" "):
            longer = f"{current} {word}" if current is not None else word
            if text_width(longer) <= width:
                current = longer
                continue
            if current is not None:
                lines.append(current)
            while text_width(word) > width and len(word) > 1:
                count = next(
                    n
                    for n in range(len(word) - 1, 0, -1)
                    if n == 1 or text_width(word[:n]) <= width
                )
                lines.append(word[:count])
                word = word[count:]
            current = word
        lines.append(current)
    return lines


def page(entries: Sequence[tuple[str, str]], *, width: int = 760) -> np.ndarray:
    """Texts below each other, each with its name in a colour of its own at the left.

    Args:
        entries: (name, text), at least one; an empty name continues the one before, and
            ('', '') leaves half a line.
        width: in pixels.

    Returns:
        uint8 [H, width, 3].
    """
    names = list(dict.fromkeys(name for name, _ in entries if name))
    margin = max([text_width(name) for name in names], default=0) + 14
    parts = []
    for name, text in entries:
        if not name and not text:
            parts.append(np.full((LINE // 2, width, 3), 255, np.uint8))
            continue
        for i, row in enumerate(wrap(text, width - margin - 12)):
            color = PALETTE[names.index(name) % len(PALETTE)] if name else GREY
            head = line("" if i else name, margin, color=color)
            parts.append(np.concatenate([head, line(row, width - margin)], axis=1))
    return frame(stack(parts))


def heat(values: np.ndarray) -> np.ndarray:
    """Colours of numbers, dark blue for 0 to yellow for 1: float [H, W] -> uint8 [H, W, 3]."""
    values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    levels = np.round(255 * values).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    size: int = 640,
) -> np.ndarray:
    """A matrix in colours, from 0 to its largest entry, with words on both axes.

    Args:
        values: float [T, S], not negative, T, S >= 1.
        rows: T words, written at the left.
        columns: S words, written upwards above.
        title: a line above everything.
        size: of the longer side of the map in pixels, at most; words are left out where
            cells become lower than a line.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: the words are not as many as the matrix has rows and columns.
    """
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0.0, neginf=0.0)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"a map of shape {values.shape} with {len(rows)} row and {len(columns)} column "
            "words; give one word for each"
        )
    cell = int(np.clip(size // max(values.shape), 1, LINE))
    largest = float(values.max())
    body = _cells(values / max(largest, 1e-12), cell)
    if cell >= _READABLE:
        left = _words(rows, cell, at_left=False)
        # Turned, the first word is the leftmost, and begins beside the map.
        above = np.rot90(_words(columns, cell, at_left=True))
        corner = np.full((above.shape[0], left.shape[1], 3), 255, np.uint8)
        above = np.concatenate([corner, above], axis=1)
        body = np.concatenate([above, np.concatenate([left, body], axis=1)])
    body = stack([body, line(f"brightest: {largest:.2g}", color=GREY)])
    return frame(stack([line(title), body]) if title else body)


def _cells(values: np.ndarray, cell: int) -> np.ndarray:
    """Colours of numbers in squares of `cell` pixels, with thin lines between large ones."""
    colors = heat(values).repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= _READABLE:
        colors[::cell], colors[:, ::cell] = _BETWEEN_CELLS, _BETWEEN_CELLS
    return colors


def _words(words: Sequence[str], cell: int, *, at_left: bool) -> np.ndarray:
    """Words below each other, each `cell` pixels high: uint8 [len * cell, W, 3]."""
    strips = [line(w, min(text_width(w) + 6, _LONGEST)) for w in words]
    top, width = (LINE - cell) // 2, max(strip.shape[1] for strip in strips)
    parts = []
    for strip in strips:
        space = np.full((LINE, width - strip.shape[1], 3), 255, np.uint8)
        pair = (strip, space) if at_left else (space, strip)
        parts.append(np.concatenate(pair, axis=1)[top : top + cell])
    return np.concatenate(parts)


def heads(weights: np.ndarray, *, title: str = "", size: int = 96) -> np.ndarray:
    """A small map for each head, a row for each layer, each map from 0 to its largest.

    Args:
        weights: float [L, N, T, S].
        title: a line above everything.
        size: of the longer side of a map in pixels, about.

    Returns:
        uint8 [H', W', 3].
    """
    L, N, T, S = weights.shape
    weights = np.nan_to_num(np.asarray(weights, np.float64), posinf=0.0, neginf=0.0)
    factor = size / max(T, S)
    shape = max(4, round(S * factor)), max(4, round(T * factor))
    how = cv2.INTER_NEAREST if factor >= 1 else cv2.INTER_AREA
    margin = text_width(f"layer {L - 1}") + 8
    rows = [
        np.concatenate(
            [line("", margin)] + [line(f"head {n}", shape[0] + 4) for n in range(N)],
            axis=1,
        )
    ]
    for i, layer in enumerate(weights):
        name = np.full((shape[1] + 4, margin, 3), 255, np.uint8)
        top = max(0, (len(name) - LINE) // 2)
        text = line(f"layer {i}", margin)
        name[top : top + LINE] = text[: len(name[top : top + LINE])]
        tiles = [name]
        for values in layer:
            tile = cv2.resize(values, shape, interpolation=how)
            tile = heat(tile / max(tile.max(), 1e-12))
            tiles.append(np.pad(tile, ((0, 4), (0, 4), (0, 0)), constant_values=255))
        rows.append(np.concatenate(tiles, axis=1))
    return frame(stack([line(title), *rows] if title else rows))


def colored_words(
    words: Sequence[str],
    weights: np.ndarray,
    *,
    title: str = "",
    color: tuple[int, int, int] = PALETTE[1],
    width: int = 640,
) -> np.ndarray:
    """A text whose words lie on a ground that is the redder, the more weight they have.

    Args:
        words: T of them.
        weights: float [T], not negative; the largest has the full colour.
        title: a line above, in grey.
        color: of the ground.
        width: in pixels.

    Returns:
        uint8 [H, width + margins, 3].

    Raises:
        ValueError: there are not as many weights as words.
    """
    rows, row, used = [], [], 0
    for word, shade in zip(words, _shades(words, weights, color), strict=True):
        strip = line(word, min(text_width(word) + 6, width), background=shade)
        if used + strip.shape[1] > width and row:
            rows.append(np.concatenate(row, axis=1))
            row, used = [], 0
        row.append(strip)
        used += strip.shape[1]
    rows += [np.concatenate(row, axis=1)] if row else []
    parts = [line(title, width, color=GREY)] if title else []
    parts.append(np.full((1, width, 3), 255, np.uint8))
    return stack(
        parts + [np.pad(r, ((0, 2), (0, 0), (0, 0)), constant_values=255) for r in rows]
    )


def colored_words_html(
    texts: Sequence[tuple[str, Sequence[str], np.ndarray]],
    color: tuple[int, int, int] = PALETTE[1],
) -> str:
    """The same as a web page of its own.

    Args:
        texts: (title, words, weights) each.
        color: of the ground.

    Returns:
        HTML; whatever the words are, they are shown as they stand.
    """
    parts = []
    for title, words, weights in texts:
        spans = [
            f'<span title="{weight:.3f}" style="background:rgb{shade}">{html.escape(word)}</span>'
            for word, weight, shade in zip(
                words, weights, _shades(words, weights, color), strict=True
            )
        ]
        parts.append(f"<h4>{html.escape(title)}</h4>\n<p>{' '.join(spans)}</p>")
    style = "body{font-family:sans-serif;max-width:50em;margin:2em} span{padding:.1em}"
    head = f'<meta charset="utf-8"><title>Attention</title><style>{style}</style>'
    return "\n".join([f"<!doctype html>{head}", *parts, ""])


def _shades(
    words: Sequence[str], weights: np.ndarray, color: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """From white for 0 to `color` for the largest weight."""
    weights = np.nan_to_num(np.asarray(weights, np.float64), posinf=0.0, neginf=0.0)
    if weights.shape != (len(words),):
        raise ValueError(
            f"{len(words)} words and weights of shape {weights.shape}; give one weight a word"
        )
    share = (weights / max(weights.max(initial=0), 1e-12)).clip(0, 1)[:, None]
    shades = np.round(255 + share * (np.array(color) - 255)).astype(int)
    return [tuple(shade) for shade in shades.tolist()]


def side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures next to each other, the lower ones with white below."""
    height = max(part.shape[0] for part in parts)
    return np.concatenate(
        [
            np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255)
            for p in parts
        ],
        axis=1,
    )


def stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, the narrower ones with white at their right."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [
            np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255)
            for p in parts
        ]
    )


def frame(picture: np.ndarray) -> np.ndarray:
    """A picture with a white margin."""
    return np.pad(picture, ((8, 8), (8, 8), (0, 0)), constant_values=255)


def tiles(parts: Sequence[np.ndarray], *, width: int = 1100) -> np.ndarray:
    """Pictures of any sizes in rows of at most `width` pixels, where one is not wider."""
    rows, row = [], []
    for part in parts:
        if row and sum(p.shape[1] for p in row) + part.shape[1] > width:
            rows.append(side_by_side(row))
            row = []
        row.append(part)
    return stack([*rows, side_by_side(row)])
