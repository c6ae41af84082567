"""Training the dense landmark network: pictures of people to points with deviations."""
