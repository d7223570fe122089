"""The interests that a sweep over encoders reads: those in its folder, or else of the study's shop, which are made there."""

from pathlib import Path

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig
from sweeps import uniscale
from sweeps.stages import Stages, make_logs


def prepare(root: Path, *, preset: str) -> None:
    """Make the logs of the study's preset of that name, and their interests, in `root` where no interests are there yet."""
    if not (out := data_dir(root)).exists():
        make_logs(uniscale.shop(uniscale.PRESETS[preset]), root / "logs", Stages(root, root, workers=0))
        build(root / "logs", out, InterestsConfig())


def data_dir(root: Path) -> Path:
    """Return where they lie."""
    return root / "interests"
