"""Cases on their way from raw files to crops: converted, checked, described, split, added without labels, drawn."""
