"""One HTML page of a circuit: it opens from disk, asks nothing of the network, and holds what the files hold."""

from featcircuits.page.notebook import Shown, show
from featcircuits.page.write import html, write

__all__ = ["Shown", "html", "show", "write"]
