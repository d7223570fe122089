"""A synthetic shop whose truth is known: generated request logs with an oracle of every candidate's probabilities."""
