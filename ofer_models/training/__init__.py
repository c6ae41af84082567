"""Training of the open bundle's networks. Build-time only: needs torch."""
