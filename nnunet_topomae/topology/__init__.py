"""Persistent homology of 3D images: diagrams, distances between them, and losses."""
