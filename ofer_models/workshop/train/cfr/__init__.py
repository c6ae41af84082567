"""CFR-GAN's two stages of training a regressor for occluded faces, for its own face model or for any other head."""
