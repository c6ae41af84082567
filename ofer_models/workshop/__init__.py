"""What builds, trains, compiles and measures bundles. Nothing that a robot runs imports it."""
