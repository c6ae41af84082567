"""`ofer train`: the open bundle's networks. Needs torch."""
