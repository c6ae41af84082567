"""`ofer build-head`: the open head, its jaw and its landmark embeddings."""
