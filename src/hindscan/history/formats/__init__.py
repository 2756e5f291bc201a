"""How the values of a topic's records become columns: one module for each format."""
