"""What `ofer reconstruct --ray` is tried with: an archive, a Ray cluster on a loopback of its own, kills and clocks."""
