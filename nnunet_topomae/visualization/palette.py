"""Colours that stay apart for colour-blind eyes: Okabe and Ito, "Color Universal Design", 2008."""

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
PINK = "#CC79A7"
SKY = "#56B4E9"
VERMILION = "#D55E00"
YELLOW = "#F0E442"
MUTED_BLUE = "#4C6A85"  # ours, for large areas

CLASSES = (ORANGE, SKY, GREEN, PINK, YELLOW, VERMILION, BLUE)
RUNS = (BLUE, VERMILION, GREEN, ORANGE, SKY, PINK)  # dark ones first: thin lines on white
NETWORKS = {"vit": PINK, "partner": SKY}  # apart from the first four runs
