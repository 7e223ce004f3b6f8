"""The circuit: nodes and edges, and which of them to keep."""
