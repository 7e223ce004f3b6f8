"""What attention carries: edges split over heads and keys, and what made a score."""
