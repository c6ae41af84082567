"""`ofer evaluate --real`: photographs of people, where nobody knows the mesh, as the judge."""
