"""The assets of the graph: what is made, from what, and where it goes."""
