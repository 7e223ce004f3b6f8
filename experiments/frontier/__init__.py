"""What accuracy, faithfulness and stability cost: the measurements behind the page on the frontier."""
