"""How to cut it: slices, keys, cost and the tree that combines partials."""
