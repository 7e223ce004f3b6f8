"""Bad inputs of every kind, tried one by one; `python -m tests.bad_inputs > docs/bad-inputs.md` lists what is said."""
