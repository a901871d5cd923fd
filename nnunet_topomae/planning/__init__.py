"""Variants of a plan that nnU-Net made: for the memory of a card, or as a dataset preset says."""
