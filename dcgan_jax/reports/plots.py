"""Figures drawn by matplotlib, as PNG files. Importing this module chooses the backend."""

import io

import matplotlib

matplotlib.use("Agg")  # draws into memory: no window is opened

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_DOTS_PER_INCH = 110


def png(figure: Figure) -> bytes:
    """The PNG of a figure, which is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    plt.close(figure)
    return buffer.getvalue()
