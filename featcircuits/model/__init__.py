"""The model: where its sites are, what nodes and connections there are, and where its modules compute."""
