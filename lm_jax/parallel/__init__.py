"""Device meshes, logical axes, and `Layout`, which joins the two."""
