"""Linear classifiers of texts, and SHIFT (Marks et al. 2024, section 4), which frees one from a cue."""
