"""A batch at every site: what patching would change, feature by feature."""
