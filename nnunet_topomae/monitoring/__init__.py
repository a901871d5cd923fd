"""Watching a training: is each network alive, what does it make of the same crops. Nothing here changes a weight."""
