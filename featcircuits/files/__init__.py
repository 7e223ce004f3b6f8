"""Files: reading of hostile files, writing of whole files or none, locks, checksums."""
