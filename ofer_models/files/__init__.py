"""Files from outside, read under a budget: archives of arrays, YAML and JSON documents, and refusals of one line."""
