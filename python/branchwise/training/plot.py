"""The reliability of a head as a picture: how often solutions of a score are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from branchwise.errors import ConfigError

Bins = Sequence[tuple[float, float, int]]


def has_plots() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def reliability_plot(path: Path, bins: Mapping[str, Bins], title: str) -> None:
    """A PNG of one curve for each name. ConfigError: matplotlib is missing, or the file cannot be written."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("a reliability plot needs matplotlib: pip install 'branchwise[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, points in bins.items():
        axes.plot([each[0] for each in points], [each[1] for each in points], marker="o", label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of right solutions", title=title)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"cannot write the plot {path}: {error.strerror}") from error
