"""A pretrained language model of 135 million parameters: estimates judged, dictionaries trained, circuits evaluated."""
