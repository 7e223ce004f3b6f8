"""One HTML page of a circuit: it opens from disk, asks nothing of the network, and everything in it is from the files."""

from featcircuits.page.write import html, write

__all__ = ["html", "write"]
