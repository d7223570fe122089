"""Set each domain's click bias so that its pages get the wanted click rate, whatever the rules drawn.

Who is shown what does not depend on the bias, which is the same for all candidates of a request; so one pilot of a few
visitors tells the logits of what is shown, and the bias is solved for.
"""

import dataclasses

import numpy as np

from data_gen.marketplace.config import DOMAINS, MarketplaceConfig
from data_gen.marketplace.shard import simulate
from data_gen.marketplace.world import World, build_world

PILOT_USERS, PILOT_REQUESTS = 400, 4
PILOT_BIAS = -3.0
RELATIVE_RATE = (1.0, 0.85, 0.9)
"""Click rate of search, feed and shop page beside `click_rate`."""


def open_world(config: MarketplaceConfig, bias: np.ndarray | None = None) -> World:
    """Build the world with its biases set: `bias` (D,) where they are known already, else from a pilot (deterministic)."""
    world = build_world(config)
    return dataclasses.replace(world, bias=pilot_bias(world) if bias is None else bias)


def pilot_bias(world: World) -> np.ndarray:
    """Return the bias (D,) at which the pilot's exposed candidates have the wanted mean click probability."""
    c = world.config
    users = np.arange(min(PILOT_USERS, c.users))
    requests_of = np.zeros(c.users, dtype=np.int64)
    requests_of[users] = PILOT_REQUESTS * -(-PILOT_USERS // len(users))
    pilot = dataclasses.replace(world, requests_of=requests_of, bias=np.full(len(DOMAINS), PILOT_BIAS, dtype=np.float32))
    logits: list[list[np.ndarray]] = [[] for _ in DOMAINS]
    for turn in simulate(pilot, np.random.default_rng([c.seed, 2]), users, request_base=0):
        p = np.clip(turn.p_click.astype(np.float64), 1e-12, 1 - 1e-7)
        logit = np.log(p) - np.log1p(-p) - PILOT_BIAS
        domain = np.repeat(turn.domain, turn.sizes)
        for d, found in enumerate(logits):
            found.append(logit[(domain == d) & (turn.position >= 0)])
    bias = [_solve(np.concatenate(found), c.click_rate * r) for found, r in zip(logits, RELATIVE_RATE, strict=True)]
    return np.array(bias, dtype=np.float32)


def _solve(logits: np.ndarray, rate: float) -> float:
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        if len(logits) and (1 / (1 + np.exp(-np.clip(logits + middle, -60, 60)))).mean() < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2 if len(logits) else PILOT_BIAS
