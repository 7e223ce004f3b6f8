"""What work costs, measured on random weights of real shapes."""
