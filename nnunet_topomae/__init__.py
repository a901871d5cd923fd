"""Topology- and spatiality-aware masked autoencoders for nnU-Net."""
