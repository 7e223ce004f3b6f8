"""`python -m featcircuits` is the `featcircuits` command."""

from featcircuits.cli import main

main()
