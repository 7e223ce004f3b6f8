"""Files: hostile ones read, results written whole or not at all, locks, checksums."""
