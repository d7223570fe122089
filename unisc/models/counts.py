"""Parameters, FLOPs and bytes in closed form: what a scaling law puts on its axes, and what a device has to move for it.

Embedding and dense parameters are separate axes. FLOPs are those of matrix products (2 a multiply-add); a backward pass costs
twice the forward. Elementwise work is left out: by the rules of XLA's cost analysis (`unisc.models.trace`) it adds less than
1 % at published sizes (from 3 million dense parameters on), 1 to 6 % at the largest size of each ranker's ladder here, and 1 to
94 % at the smallest, whose maps are a few numbers wide.
"""

from collections.abc import Container
from dataclasses import dataclass

from unisc.data.features import FeatureSpec

INDEX_BYTES = 4
"""Of an id, a place or a domain; a mask's entry has one byte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamCount:
    """Parameters of a model; `active` are the dense ones that take part in scoring one candidate.

    `train_only` are dense ones that scoring never reads, such as a training router; experts that routing closes are read.
    """

    embedding: int
    dense: int
    active: int
    train_only: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopCount:
    """Forward FLOPs, split by what is computed once a candidate and once a request.

    `candidate` is what runs: every expert on every candidate, be it another domain's or closed by a router.
    `candidate_active` is what routing needs: the own domain's and the open ones only.
    """

    candidate: int
    candidate_active: int
    request: int

    def forward(self, *, num_candidates: int, num_requests: int) -> int:
        """Return the FLOPs of scoring this many candidates of this many requests."""
        return self.candidate * num_candidates + self.request * num_requests

    def train(self, *, num_candidates: int, num_requests: int) -> int:
        """Return the FLOPs of a forward and a backward pass over them."""
        return 3 * self.forward(num_candidates=num_candidates, num_requests=num_requests)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteCount:
    """Bytes that scoring has to move however well it is fused and cached: its inputs read once, its logits written once.

    `batch` are the weights, read once a batch. `request` are a request's ids, numerics, history mask and the embedding rows
    that its fields and its history name; `candidate` the same of a candidate, its request and its logits. What passes between
    operations is not counted, and a row that two fields name counts twice. FLOPs over these bytes are the highest arithmetic
    intensity that a model allows: a device that does more FLOPs in the time of a byte waits for memory.
    """

    batch: int
    request: int
    candidate: int

    def forward(self, *, num_candidates: int, num_requests: int, num_batches: int = 1) -> int:
        """Return the bytes of scoring this many candidates of this many requests in this many batches."""
        return self.candidate * num_candidates + self.request * num_requests + self.batch * num_batches


def bytes_per_example(
    params: ParamCount, spec: FeatureSpec, *, embed_dim: int, reads: Container[str] = (), itemsize: int = 4
) -> ByteCount:
    """Count the compulsory traffic of a model that reads all features, in closed form.

    `reads` names what it reads beside them: "domain" (a candidate's), "lists" (where a request's candidates stand, for full
    lists) and "ages" (the stored row of each event's age). `itemsize` is that of the type computed in: 4 or, in bfloat16, 2.
    """
    events = spec.history_len if spec.at("history") else 0
    fields, history = len(spec.at("request")), events * len(spec.at("history"))
    each = INDEX_BYTES + embed_dim * itemsize  # an id and the row it names
    request = (fields + history) * each + len(spec.numeric_at("request")) * itemsize + events
    candidate = len(spec.at("candidate")) * each + (len(spec.numeric_at("candidate")) + len(spec.tasks)) * itemsize
    return ByteCount(
        batch=(params.dense - params.train_only) * itemsize,
        request=request + ("ages" in reads) * events * INDEX_BYTES,
        candidate=candidate + (1 + ("domain" in reads) + ("lists" in reads)) * INDEX_BYTES,
    )


def mlp_params(dim_in: int, dim_hidden: int, dim_out: int, *, outer_bias: bool = False) -> int:
    """Return the parameters of a two-layer perceptron, whose hidden layer has a bias."""
    return dim_in * dim_hidden + dim_hidden + dim_hidden * dim_out + (dim_out if outer_bias else 0)


def mlp_flops(dim_in: int, dim_hidden: int, dim_out: int) -> int:
    """Return the forward FLOPs a row of a two-layer perceptron."""
    return 2 * (dim_in * dim_hidden + dim_hidden * dim_out)
