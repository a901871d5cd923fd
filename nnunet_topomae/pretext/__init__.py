"""The pretext tasks: what is hidden from the networks, and what they are asked about the crop's place."""
