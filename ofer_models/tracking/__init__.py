"""What is kept of a face from frame to frame: its identity, its noise, its filters, its selected hypothesis."""
