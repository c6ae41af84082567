"""What a node listens to: images, CameraInfo, and how the two belong together."""
