"""What the encoding needs to know of a whole samples directory before its first chunk, gathered in one pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unisc.data.chunk import Rows
from unisc.data.encode import ENCODING_VERSION, Catalog, Layout
from unisc.errors import InputError

SURVEYED = ("scene", "shop_id", "position", "price")
"""The columns `Survey.add` reads."""


class Survey:
    """Sees every chunk of both splits, then gives their layout.

    Whether positions and prices exist is asked of the test split, which is the same for every composition of one log: two
    compositions must not differ in their features. `numbers` are the further numbers that all files have.
    """

    def __init__(self, numbers: tuple[str, ...] = ()) -> None:
        self._numbers = numbers
        self._max_scene = self._max_shop = self._max_position = -1
        self._log_prices = [np.zeros(0, np.float32)]

    def add(self, rows: Rows, split: str) -> None:
        """Look at a chunk's scenes and shops, and in the test split at its positions and prices."""
        scene, shop = (rows.column(name).fill_null(-1).to_numpy(zero_copy_only=False) for name in ("scene", "shop_id"))
        self._max_scene = max(self._max_scene, int(scene.max(initial=-1)))
        self._max_shop = max(self._max_shop, int(shop.max(initial=-1)))
        if split == "test":
            shown = rows.column("position").flatten().fill_null(-1).to_numpy(zero_copy_only=False)
            price = rows.column("price").flatten().fill_null(np.nan).to_numpy(zero_copy_only=False)
            self._max_position = max(self._max_position, int(shown.max(initial=-1)))
            self._log_prices.append(np.log(price[price > 0]))

    def layout(self, catalog: Catalog) -> Layout:
        """Return the layout of all that was seen."""
        seen = np.concatenate(self._log_prices)
        max_shop = int(catalog.items["shop_id"].max(initial=-1)) if "shop_id" in catalog.items else -1
        return Layout(
            has_position=self._max_position >= 0,
            has_price=seen.size > 0,
            max_scene=self._max_scene,
            max_shop=max(self._max_shop, max_shop),
            price_edges=catalog.price_edges(seen),
            numbers=self._numbers,
        )


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Return a layout as plain JSON values."""
    return {
        "encoding_version": ENCODING_VERSION,
        "has_position": layout.has_position,
        "has_price": layout.has_price,
        "max_scene": layout.max_scene,
        "max_shop": layout.max_shop,
        "price_edges": layout.price_edges.tolist(),
    }


def layout_from_json(text: Mapping[str, Any]) -> Layout:
    """Return the layout that `layout_to_json` wrote, float by float the same.

    Raises:
      InputError: a layout of another version of the encoding.
    """
    if text["encoding_version"] != ENCODING_VERSION:
        found = text["encoding_version"]
        raise InputError(f"layout of encoding {found}, this program has encoding {ENCODING_VERSION}; make the dataset again")
    return Layout(
        has_position=bool(text["has_position"]),
        has_price=bool(text["has_price"]),
        max_scene=int(text["max_scene"]),
        max_shop=int(text["max_shop"]),
        price_edges=np.array(text["price_edges"], np.float64),
    )
