"""Where camera_node's pictures come from: files, videos, webcams, bags, the built-in scene."""
