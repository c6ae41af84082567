"""What a node publishes: messages, markers, TF, blendshapes, overlay."""
