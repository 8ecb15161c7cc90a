"""The two ways to pad a convolution so that stride 1 keeps the size.

They agree at stride 1 with odd kernels. With stride 2 the symmetric one pads as before, and
its windows are centred on pixels 0, 2, 4, ...; TensorFlow's pads only as much as the last
window needs, the odd pixel at the bottom and right, so that on even sizes its windows are
centred on pixels 1, 3, 5, ... Weights trained with one are useless with the other.
"""

Pairs = tuple[tuple[int, int], tuple[int, int]]

# TensorFlow's, for `layers.convolution.Conv` and the pools: along a side of n pixels with
# stride s there are ceil(n / s) windows, and max(0, (ceil(n / s) - 1) * s + k - n) pixels of
# padding, the smaller half of them in front.
tensorflow_same = "SAME"

PADDINGS = ("symmetric", tensorflow_same)


def symmetric(kernel: int | tuple[int, int], dilation: int = 1) -> Pairs:
    """Half the kernel on every side, whatever the stride, as torch's networks pad.

    Args:
        kernel: height and width in pixels; one number means a square.
        dilation: distance of neighbouring weights in pixels.

    Returns:
        (low, high) of height and of width.
    """
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    rows, columns = dilation * (height // 2), dilation * (width // 2)
    return (rows, rows), (columns, columns)


def padding_named(
    name: str, kernel: int | tuple[int, int], dilation: int = 1
) -> str | Pairs:
    """What `Conv` takes as `padding`, for a model with a field of that name.

    Args:
        name: 'symmetric' or 'SAME'.
        kernel, dilation: as in `symmetric`.

    Raises:
        ValueError: another name.
    """
    if name not in PADDINGS:
        raise ValueError(f"padding is {name!r}; known: {', '.join(PADDINGS)}")
    return symmetric(kernel, dilation) if name == "symmetric" else name
