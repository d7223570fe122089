"""Interests: from logs, sequences or pairs to a catalogue with texts, and examples of what each user wanted when.

Three kinds of source make the same directory (`unisc.data.interests`):

- log tables: an example is a click on a page of the chosen domains, with the page's query, the user's clicks of any domain
  before the request (oldest first; one at the very second of the request is not before it), and what the page showed and
  nobody touched. Outside train, the clicks of a page are the targets of one example. Test is what ES3 tests on.
- sequences: in train, every item of a user's train row but the first, with the items before it; validation and test leave
  one out, as the conversion did.
- interactions, which have no order: in train every pair, with no history; in test one example a user. `known` stands for the
  history.
"""

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig

__all__ = ["InterestsConfig", "build"]
