"""Crops that know where they lie in their volume."""
