"""The model: its sites, nodes and connections, and where its modules compute."""
