"""The page of view_node and what feeds it."""
