"""ES3, the entire-space sample system: log tables in, list-wise training samples out (UniScale sections 2 and 3).

Everything relational is an Ibis expression, so that the engine below can change; only `session` knows that it is DuckDB.
"""

from data_gen.es3.build import build, build_all
from data_gen.es3.config import ES3Config

__all__ = ["ES3Config", "build", "build_all"]
