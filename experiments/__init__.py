"""Scripts that rebuild shipped data and repeat measurements; no part of the package."""
