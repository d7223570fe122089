"""Choose runs that shrink the variance of predictions most: c-optimal design under a budget, greedy with exchanges."""

from dataclasses import dataclass

import numpy as np

_UNKNOWN = 1e-10
"""What is taken to be known of a direction that no run speaks of, over the table's own information: a start for choosing."""
_GREED = (0.0, 0.5, 1.0)
"""Powers of the cost that a gain is divided by: the largest gain first, the cheapest first, and between."""
_SETTLED = 1e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold what may be chosen: slopes (m, P) over noise, costs (m,), and the limits of a choice."""

    slopes: np.ndarray
    cost: np.ndarray
    budget: float
    max_runs: int
    max_repeats: int
    min_gain: float


def choose(choice: Choice, matrix: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """Return how often each candidate is run (m,), for information (P, P) so far and the predictions' slopes (T, P).

    What shrinks is the mean logarithm of the variances: with several targets the geometric mean of the intervals' widths. Three
    greedy choices, of the largest gain, of the largest gain per cost and between, are each improved by the best exchange of one
    run for another, or addition, until there is none; the best of the three is returned.
    """
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    start = matrix / np.outer(scale, scale) + _UNKNOWN * np.eye(len(matrix))
    search = _Search(choice, start, choice.slopes / scale, aims / scale)
    found = [search.exchange(search.greedy(power)) for power in _GREED]
    return min(found, key=search.value)


@dataclass(frozen=True, slots=True)
class _Search:
    choice: Choice
    start: np.ndarray
    rows: np.ndarray
    aims: np.ndarray

    def matrix(self, counts: np.ndarray) -> np.ndarray:
        used = np.flatnonzero(counts)
        return self.start + (self.rows[used] * counts[used, None]).T @ self.rows[used]

    def value(self, counts: np.ndarray) -> float:
        spread = np.einsum("tp,pt->t", self.aims, np.linalg.solve(self.matrix(counts), self.aims.T))
        return float(np.log(np.maximum(spread, 1e-300)).mean())

    def after(self, matrix: np.ndarray) -> np.ndarray:
        """Return the value (m,) once any one candidate is added to an information."""
        by_aim = np.linalg.solve(matrix, self.aims.T)
        by_row = np.linalg.solve(matrix, self.rows.T)
        spread = np.einsum("tp,pt->t", self.aims, by_aim)
        seen = np.einsum("mp,pm->m", self.rows, by_row)
        left = spread - (self.rows @ by_aim) ** 2 / (1 + seen)[:, None]
        return np.log(np.maximum(left, 1e-12 * spread)).mean(axis=1)

    def allowed(self, counts: np.ndarray) -> np.ndarray:
        """Mark the candidates (m,) that may be added."""
        left = self.choice.budget - float(counts @ self.choice.cost)
        room = counts.sum() < self.choice.max_runs
        return room & (counts < self.choice.max_repeats) & (self.choice.cost <= left * (1 + 1e-12))

    def greedy(self, power: float) -> np.ndarray:
        counts = np.zeros(len(self.rows), int)
        while (allowed := self.allowed(counts)).any():
            gain = self.value(counts) - self.after(self.matrix(counts))
            best = int(np.argmax(np.where(allowed, gain / self.choice.cost**power, -np.inf)))
            if counts.any() and gain[best] < self.choice.min_gain:
                break
            counts[best] += 1
        return counts

    def exchange(self, counts: np.ndarray) -> np.ndarray:
        now = self.value(counts)
        for _ in range(50 * self.choice.max_runs):
            moves = [(self.choice.min_gain, counts)]  # An addition must be worth a run; an exchange need only help.
            moves += [(_SETTLED, counts - (np.arange(len(counts)) == run)) for run in np.flatnonzero(counts)]
            best, chosen = 0.0, None
            for least, without in moves:
                allowed = self.allowed(without)
                if not allowed.any():
                    continue
                gain = np.where(allowed, now - self.after(self.matrix(without)), -np.inf)
                into = int(np.argmax(gain))
                if gain[into] > max(least, best):
                    best, chosen = float(gain[into]), without + (np.arange(len(counts)) == into)
            if chosen is None:
                break
            counts, now = chosen, self.value(chosen)
        return counts
