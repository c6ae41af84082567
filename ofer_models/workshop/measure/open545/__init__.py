"""Open-545, the occlusion test anyone can make, and a bundle's figures on it."""
