"""Topology- and spatiality-aware masked autoencoder pre-training for nnU-Net."""

__version__ = "0.2.0"
