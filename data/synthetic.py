"""Invented data: the same fields as a real source's, for trying a run without it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data.features import Feature

# Enough for a few small batches; a trial run goes round.
SYNTHETIC_LENGTH = 64


class Synthetic:
    """Invented examples: example i depends on (seed, i) only.

    Args:
        features: field name -> feature.
        length: number of examples.
        seed: another seed, other examples.
    """

    def __init__(self, features: Mapping[str, Feature], length: int, seed: int = 0):
        self.features = dict(features)
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self._seed, index])
        return {name: field.sample(rng) for name, field in self.features.items()}

    @staticmethod
    def synthetic_node(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Itself."""
        return {"type": "data.sources.Synthetic", **kwargs}


def synthetic_texts_node(fields: Iterable[str]) -> dict[str, Any]:
    """The config of invented examples whose fields are texts."""
    return {
        "type": "data.sources.Synthetic",
        "features": {field: {"type": "data.features.Text"} for field in fields},
        "length": SYNTHETIC_LENGTH,
    }


def declared_synthetic_node(kwargs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The config of invented data with the `features` that a source's config declares.

    Args:
        kwargs: the source's keyword arguments in the config, `features` unbuilt.
        source: its name, for the error.

    Raises:
        ValueError: if it declares none.
    """
    if not kwargs.get("features"):
        raise ValueError(
            f"{source} declares no features, so nothing can be invented for it; add "
            "features=dict(image=dict(type='data.features.Image', ...), "
            "label=dict(type='data.features.Label', num_classes=...)) or, of text, "
            "features=dict(text=dict(type='data.features.Text')) to its config"
        )
    return {
        "type": "data.sources.Synthetic",
        "features": kwargs["features"],
        "length": SYNTHETIC_LENGTH,
    }
