"""NoW, CO-545 and AFLW2000-3D, for who holds them."""
