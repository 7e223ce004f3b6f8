"""User inputs: names, numbers, options written as text, and the values that they may have."""
