"""Device meshes, logical axes, and the one object that joins them: `Layout`."""
