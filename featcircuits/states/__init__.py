"""The states of a batch at every site: what patching changes, feature by feature."""
