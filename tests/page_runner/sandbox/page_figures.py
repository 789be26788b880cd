"""A matplotlib backend that keeps what `plt.show()` would show: one SVG a figure, in the folder PAGE_FIGURES."""

import os
from pathlib import Path

from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvas, FigureManager  # noqa: F401  (a backend must have both)


def show(*args, **kwargs) -> None:
    folder = Path(os.environ["PAGE_FIGURES"])
    for number in pyplot.get_fignums():
        name = f"{len(list(folder.iterdir())):04d}.svg"
        pyplot.figure(number).savefig(folder / name, format="svg", metadata={"Date": None})
    pyplot.close("all")
