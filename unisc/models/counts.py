"""Parameters and FLOPs in closed form: what a scaling law puts on its axes.

Embedding and dense parameters are separate axes. FLOPs are those of matrix products (2 a multiply-add) and leave out
elementwise work; the backward pass costs twice the forward.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamCount:
    """Parameters of a model; `active` are the dense ones that take part in scoring one candidate."""

    embedding: int
    dense: int
    active: int


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


def mlp_params(dim_in: int, dim_hidden: int, dim_out: int, *, outer_bias: bool = False) -> int:
    """Return the parameters of a two-layer perceptron, whose hidden layer has a bias."""
    return dim_in * dim_hidden + dim_hidden + dim_hidden * dim_out + (dim_out if outer_bias else 0)


def mlp_flops(dim_in: int, dim_hidden: int, dim_out: int) -> int:
    """Return the forward FLOPs a row of a two-layer perceptron."""
    return 2 * (dim_in * dim_hidden + dim_hidden * dim_out)
