"""Build rate, queries a second and recall of the index against exact search: `python benchmarks/index.py`.

Vectors are a mixture of normals of unit length, as a trained encoder's embeddings are: clustered. One thread. Recall has a 90 %
bootstrap interval over the queries; rates are of one run.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from unisc.errors import run_command
from unisc.retrieval.exact import exact_top
from unisc.retrieval.index import Index, IndexConfig, recall_of


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=int, default=[12_000, 100_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--expansions", nargs="+", type=int, default=[64, 256], help="candidates kept while searching")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    measured = []
    print(f"{'items':>8} {'expansion':>9} {'built/s':>9} {'queries/s':>9} {'exact/s':>9} {f'recall@{args.k}':>26}")
    for num_items in args.items:
        rng = np.random.default_rng(args.seed)
        centres = rng.normal(size=(max(num_items // 50, 1), args.dim))
        items, queries = (clustered(centres, n, rng) for n in (num_items, args.queries))
        exact_top(queries, items, args.k)  # compiles
        exact = rate(args.queries, lambda queries=queries, items=items: exact_top(queries, items, args.k))
        for expansion in args.expansions:
            began = time.perf_counter()
            index = Index.build(items, IndexConfig(expansion_search=expansion))
            built = num_items / (time.perf_counter() - began)
            searched = rate(args.queries, lambda index=index, queries=queries: index.search(queries, args.k))
            recall = recall_of(index, queries, items, args.k)
            measured.append({"items": num_items, "expansion": expansion, "built": built, "searched": searched, "exact": exact})
            measured[-1]["recall"] = recall._asdict()
            spread = f"{recall.mean:.4f} [{recall.low:.4f}, {recall.high:.4f}]"
            print(f"{num_items:8} {expansion:9} {built:9.0f} {searched:9.0f} {exact:9.0f} {spread:>26}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n")


def clustered(centres: np.ndarray, n: int, rng: np.random.Generator) -> Float32[np.ndarray, "n D"]:
    """Draw vectors of unit length around centres, half of their square being the centre's."""
    drawn = centres[rng.integers(0, len(centres), n)] + rng.normal(size=(n, centres.shape[1]))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def rate(n: int, call: Callable[[], object]) -> float:
    """Return how many of n things a call does in a second."""
    began = time.perf_counter()
    call()
    return n / (time.perf_counter() - began)


if __name__ == "__main__":
    run_command("index", main)
