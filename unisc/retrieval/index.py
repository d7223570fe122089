"""An approximate index of a catalogue on disk: usearch's graph (HNSW, arXiv 1603.09320), and its recall against exact search.

A folder holds `index.usearch` and a manifest with its checksum, metric, width and versions. Built on one thread the same
vectors give the same file; on several the graph hangs on their timing. Up to about five million items on one accelerator exact
search is simpler (`unisc.retrieval.exact`); this serves a catalogue from a CPU.
"""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64
from usearch import index as usearch

from unisc.data import manifest
from unisc.errors import InputError
from unisc.files import new_directory
from unisc.retrieval.exact import check_vectors, exact_top

FILE = "index.usearch"
KIND = "index"
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """How a graph is built: `metric` "ip" is the inner product, "cos" that of normalised vectors.

    Each item has about `connectivity` edges a level; `expansion_add` candidates are kept while an item is placed and
    `expansion_search` while a query is answered, so that recall grows with them, and cost. Vectors are stored as `dtype`.
    """

    metric: Literal["ip", "cos"] = "ip"
    connectivity: int = 16
    expansion_add: int = 128
    expansion_search: int = 64
    dtype: Literal["f32", "f16", "bf16", "i8"] = "f32"

    def __post_init__(self) -> None:
        for name, known in (("metric", ("ip", "cos")), ("dtype", ("f32", "f16", "bf16", "i8"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r}: unknown; give one of {', '.join(known)}")
        for name, least in (("connectivity", 2), ("expansion_add", 1), ("expansion_search", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)!r}: give a whole number of at least {least}")
        if self.dtype == "i8" and self.metric != "cos":
            raise InputError('dtype "i8": stores the direction of a vector alone; give metric "cos"')


class Recall(NamedTuple):
    """Mean share of the exact top k that an index returned, with a 90 % interval over queries."""

    mean: float
    low: float
    high: float
    num_queries: int


class Index:
    """A graph over the rows of one matrix; `build` or `load` make it."""

    def __init__(self, config: IndexConfig, graph: usearch.Index):
        self.config, self._graph = config, graph

    @property
    def num_items(self) -> int:
        """How many items it holds: rows 0 to that, less one."""
        return len(self._graph)

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return self._graph.ndim

    @classmethod
    def build(cls, items: Float[np.ndarray, "I D"], config: IndexConfig | None = None, *, num_threads: int = 1) -> "Index":
        """Place every row; `num_threads` 0 takes all cores, and gives no two times the same graph.

        Raises:
          InputError: vectors that are no finite numbers, or none at all.
        """
        config = config or IndexConfig()
        check_vectors(items, "items")
        if not len(items):
            raise InputError("items: none; an index holds at least one")
        if config.metric == "cos":
            check_directions(items, "items")
        graph = usearch.Index(
            ndim=items.shape[1],
            metric=config.metric,
            dtype=config.dtype,
            connectivity=config.connectivity,
            expansion_add=config.expansion_add,
            expansion_search=config.expansion_search,
        )
        graph.add(np.arange(len(items), dtype=np.uint64), np.ascontiguousarray(items, np.float32), threads=num_threads)
        return cls(config, graph)

    def search(
        self, queries: Float[np.ndarray, "N D"], k: int, *, num_threads: int = 1
    ) -> tuple[Float32[np.ndarray, "N k"], Int64[np.ndarray, "N k"]]:
        """Return scores and rows of about the k best items a query, best first; row -1 at -inf where the graph found fewer.

        Raises:
          InputError: vectors that are no finite numbers or of another width, or k beyond the items.
        """
        check_vectors(queries, "queries")
        if queries.shape[1] != self.dim:
            raise InputError(f"queries: width {queries.shape[1]} against the index's {self.dim}; give vectors of one model")
        if not 0 < k <= self.num_items:
            raise InputError(f"k {k}: of {self.num_items} items; give a number from 1 to that")
        if self.config.metric == "cos":
            check_directions(queries, "queries")
        if not len(queries):
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
        # One query alone would come back without its axis, and cut where fewer are found.
        asked = np.ascontiguousarray(np.repeat(queries, 2, axis=0) if len(queries) == 1 else queries, np.float32)
        found = self._graph.search(asked, k, threads=num_threads)
        assert isinstance(found, usearch.BatchMatches)
        missing = np.arange(k) >= np.asarray(found.counts)[:, None]
        scores = np.where(missing, -np.inf, 1.0 - found.distances).astype(np.float32)[: len(queries)]
        return scores, np.where(missing, -1, found.keys.astype(np.int64))[: len(queries)]

    def save(self, out: Path) -> None:
        """Write the index into a new folder. Raises InputError where that holds something or cannot be written."""
        with new_directory(out) as folder:
            self._graph.save(str(folder / FILE))
            manifest.write(
                folder,
                kind=KIND,
                config={**asdict(self.config), "dim": self.dim},
                counts={"items": self.num_items},
                versions={"usearch": version("usearch")},
            )

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read an index that `save` wrote, its checksum compared first.

        Raises:
          InputError: no index folder, a file that is not the manifest's, or that usearch does not read as what it says.
        """
        found = manifest.read(path, kind=KIND, verify=True)
        settings = dict(found["config"])
        file = path / FILE
        try:
            dim, num_items = int(settings.pop("dim")), int(found["counts"]["items"])
            config = IndexConfig(**settings)
        except (LookupError, TypeError, ValueError) as e:
            raise InputError(f"{path}: its manifest does not describe an index ({e}); build it again") from e
        try:
            graph = usearch.Index.restore(str(file))
        except (RuntimeError, ValueError) as e:
            raise InputError(f"{file}: usearch cannot read it ({' '.join(str(e).split())}); build the index again") from e
        if graph is None or (graph.ndim, len(graph)) != (dim, num_items):
            raise InputError(f"{file}: not the {num_items} vectors of width {dim} that its manifest names; build it again")
        graph.expansion_add, graph.expansion_search = config.expansion_add, config.expansion_search
        return cls(config, graph)


def check_directions(x: np.ndarray, name: str) -> None:
    """Check that every vector has a direction. Raises InputError."""
    empty = ~np.any(x, axis=1)
    if empty.any():
        raise InputError(f'{name}: vector {int(np.argmax(empty))} is zero and has no direction; give metric "ip"')


def recall_of(
    index: Index, queries: Float[np.ndarray, "N D"], items: Float[np.ndarray, "I D"], k: int, *, seed: int = 0
) -> Recall:
    """Compare an index with exact search over the items that it was built of; the interval is a bootstrap over queries.

    An item counts where its score reaches that of the exact k-th, so that of equal vectors either may be returned.

    Raises:
      InputError: as `Index.search`, no queries, or other items than the index holds.
    """
    if items.shape != (index.num_items, index.dim):
        raise InputError(f"items: shape {items.shape}, the index has {(index.num_items, index.dim)}; give what it was built of")
    if not len(queries):
        raise InputError("queries: none; give some to measure recall with")
    _, found = index.search(queries, k)
    if index.config.metric == "cos":
        queries, items = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, items))
    _, best = exact_top(queries, items, k)
    least = _scores_of(queries, items, best).min(axis=1, keepdims=True)
    share = ((_scores_of(queries, items, found) >= least) & (found >= 0)).mean(axis=1)
    rng = np.random.default_rng(seed)
    means = [float(share[rng.integers(0, len(share), len(share))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.05, 0.95])
    return Recall(float(share.mean()), float(low), float(high), len(share))


def _scores_of(queries: np.ndarray, items: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "N k"]:
    """Return the scores of rows, computed in one way for whoever found them."""
    return np.concatenate(
        [np.einsum("d,kd->k", q.astype(np.float64), items[r])[None] for q, r in zip(queries, rows, strict=True)]
    )
