"""Axis letters, used only inside shape strings and einsum equations, and the shapes that cross module boundaries.

B candidates of a batch (packed flat) · R requests of a batch · C candidate slots a request · U distinct embedding rows a batch
touches · S history entries a request · T tokens · D width · F hidden width · N heads · H head width · G composite sets, or
experts · E embedding width · M fields · P numeric fields · tasks labels predicted per candidate. Mr, Mc, Mh and Pr, Pc count
fields per request, candidate and history entry.
"""

from jaxtyping import Array, Bool, Float, Int

Rows = Float[Array, "U E"]
"""The distinct embedding rows a batch touches."""

Logits = Float[Array, "B tasks"]
"""One score a candidate and task; sigmoid gives a probability."""

Tokens = Float[Array, "T B D"]
"""Typed tokens; the type leads, so that each type's projection is one large matrix product."""

Heads = Float[Array, "B T N H"]
"""Queries, keys or values split into heads."""

RequestIndex = Int[Array, "B"]
"""The request each candidate belongs to."""

HistoryMask = Bool[Array, "R S"]
"""True where a history entry is real."""
