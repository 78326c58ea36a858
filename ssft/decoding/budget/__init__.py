"""How much a pass may carry: nodes of each row's tree, and nodes that carry streams."""
