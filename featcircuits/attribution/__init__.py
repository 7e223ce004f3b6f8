"""Attribution: how much each node, and each direct connection of two nodes, carries."""
