"""Where candidates meet their context: a row a candidate, or a row a request with its candidates side by side.

Token-wise work stays in the flat layout of candidates, where no slot is empty; only attention to the context changes layout.
"""

from typing import Literal, NamedTuple

from jaxtyping import Array, Float, Int, Shaped

from unisc.dims import RequestIndex
from unisc.nn.embedding import to_candidates
from unisc.nn.lists import from_lists, to_lists

Context = Literal["joint", "shared"]
CONTEXTS: tuple[Context, ...] = ("joint", "shared")


class Slots(NamedTuple):
    """The rows that hold contexts, K of them with C candidates each; without `lists` K = B and C = 1, else K = R."""

    request_index: RequestIndex
    lists: Int[Array, "R C"] | None

    @classmethod
    def of(cls, context: Context, request_index: RequestIndex, lists: Int[Array, "R C"]) -> "Slots":
        """Return a row a candidate for "joint" and a row a request for "shared"."""
        return cls(request_index, lists if context == "shared" else None)

    def of_request(self, x: Shaped[Array, "R *rest"]) -> Shaped[Array, "K *rest"]:
        """Give every row what its request holds; a copy a candidate where a row is a candidate's."""
        return to_candidates(x, self.request_index) if self.lists is None else x

    def spread(self, x: Float[Array, "B *rest"]) -> Float[Array, "K C *rest"]:
        """Lay candidates beside their context; empty slots are zero. Raises InputError where a batch lacks its lists."""
        return x[:, None] if self.lists is None else to_lists(x, self.lists, self.request_index)

    def collect(self, y: Float[Array, "K C *rest"]) -> Float[Array, "B *rest"]:
        """Lay the candidates of all rows end to end again."""
        return y[:, 0] if self.lists is None else from_lists(y, self.lists, self.request_index)
