"""One look for every figure: a colour and a marker per composition, text kept as text, byte-for-byte repeatable files."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # Before pyplot, which would look for a display.

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's palette, distinct under the common colour deficiencies; markers say the same without colour.
COLOURS = {"exposed": "#0072B2", "unexposed": "#E69F00", "attributed": "#009E73", "searchified": "#D55E00"}
MARKERS = {"exposed": "o", "unexposed": "s", "attributed": "^", "searchified": "D"}
_SPARE = ("#CC79A7", "#56B4E9", "#8C6D31", "#666666")
INK, MUTED, FLOOR = "#1b1f24", "#6b7280", "#111111"
FORMATS = ("png", "svg", "pdf")


def colour(composition: str, index: int = 0) -> str:
    """Return a composition's colour; names of other studies take spare ones by index."""
    return COLOURS.get(composition, _SPARE[index % len(_SPARE)])


def marker(composition: str) -> str:
    """Return a composition's marker; a cross for what is none."""
    return MARKERS.get(composition, "X")


def shades(count: int) -> list:
    """Return colours (count,) for an ordered quantity, light to dark, readable on white."""
    return sns.color_palette("crest", count)


def apply() -> None:
    """Set the theme."""
    sns.set_theme(
        context="paper",
        style="ticks",
        rc={
            "svg.fonttype": "none",
            "svg.hashsalt": "unisc",
            "pdf.fonttype": 42,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.titlesize": 9.5,
            "axes.titlelocation": "left",
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#e8eaed",
            "grid.linewidth": 0.7,
            "text.color": INK,
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
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
        },
    )


def figure(columns: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    """Return a themed figure with a row of axes, laid out without overlaps."""
    apply()
    fig, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return fig, list(axes[0])


def quantity(value: float, _position=None) -> str:
    """Write a count shortly: 3.2k, 45k, 1.5M."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def log_counts(axis) -> None:
    """Put a few readable counts on a logarithmic axis, whatever it spans."""
    low, high = axis.get_view_interval()
    subs = (1.0,) if high / max(low, 1e-300) > 300 else (1.0, 3.0) if high / max(low, 1e-300) > 12 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(quantity))
    axis.set_minor_formatter(NullFormatter())


def save(fig: Figure, folder: Path, name: str) -> dict[str, Path]:
    """Write a figure as PNG, SVG and PDF without dates, close it, and return the paths by format."""
    folder.mkdir(parents=True, exist_ok=True)
    blank = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None}}
    paths = {}
    for kind in FORMATS:
        paths[kind] = folder / f"{name}.{kind}"
        fig.savefig(paths[kind], dpi=170, metadata=blank[kind])
    plt.close(fig)
    return paths
