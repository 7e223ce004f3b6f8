"""Evidence for and against a circuit: other ablations of its outside, controls, tests with p-values, one verdict."""
