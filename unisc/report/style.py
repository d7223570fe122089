"""One look for every figure: colours and markers, text kept as text, byte-for-byte repeatable files."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # Before pyplot, which would look for a display.

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from unisc.report.numbers import short

# Okabe and Ito's palette, distinct under the common colour deficiencies; markers and lines say the same without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
INK, MUTED, GRID, PAPER = "#1b1f24", "#6b7280", "#e8eaed", "#ffffff"
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g}%")
FORMATS = ("png", "svg", "pdf")

# A composition of samples looks the same in every figure; names of other studies take what is left by their index.
_COMPOSITIONS = {"exposed": (0, "o"), "unexposed": (4, "s"), "attributed": (2, "^"), "searchified": (1, "D")}
_SPARE = (3, 5, 6, 7)

# Without a date or a version, so that equal figures are equal files.
_BLANK: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None},
}
_THEME = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unisc",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def is_composition(name: str) -> bool:
    """Say whether a name has a colour of its own."""
    return name in _COMPOSITIONS


def colour(composition: str, index: int = 0) -> str:
    """Return a composition's colour; names of other studies take spare ones by index."""
    known = _COMPOSITIONS.get(composition)
    return COLOURS[known[0] if known else _SPARE[index % len(_SPARE)]]


def marker(composition: str) -> str:
    """Return a composition's marker; a cross for what is none."""
    return _COMPOSITIONS.get(composition, (0, "X"))[1]


def shades(count: int) -> list:
    """Return colours (count,) for an ordered quantity, light to dark, readable on white."""
    return sns.color_palette("crest", count)


def figure(columns: int, width: float = 9.0, height: float = 3.0, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a themed figure of `width` x `height` inches with rows of axes, row by row, laid out without overlaps."""
    sns.set_theme(context="paper", style="ticks", palette=list(COLOURS), rc=_THEME)
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return fig, list(axes.flat)


def note(fig: Figure, text: str) -> None:
    """Write above the panels what a reader must know of the numbers: how many runs, which level, which seeds."""
    fig.suptitle(text, x=0.01, ha="left", fontsize=8, color=MUTED)


def log_counts(axis: Axis) -> None:
    """Put a few readable counts on a logarithmic axis, whatever it spans."""
    low, high = axis.get_view_interval()
    ratio = high / max(low, 1e-300)
    subs = (
        (1.0,)
        if ratio > 300
        else (1.0, 3.0)
        if ratio > 12
        else (1.0, 2.0, 5.0)
        if ratio > 5
        else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    )
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def svg(fig: Figure) -> str:
    """Return a figure as the text of an SVG document, and close it."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata=_BLANK["svg"])
    plt.close(fig)
    return buffer.getvalue()


def save(fig: Figure, folder: Path, name: str) -> dict[str, Path]:
    """Write a figure as PNG, SVG and PDF, close it, and return the paths by format."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    fig.draw_without_rendering()  # Laid out once for all formats, which takes longer than drawing.
    fig.set_layout_engine("none")
    for kind in FORMATS:
        paths[kind] = folder / f"{name}.{kind}"
        fig.savefig(paths[kind], dpi=170, metadata=_BLANK[kind])
    plt.close(fig)
    return paths
