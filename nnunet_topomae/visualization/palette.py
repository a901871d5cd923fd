"""Colours that stay apart for colour-blind eyes.

Okabe and Ito, "Color Universal Design", 2008; light areas and two lines are of Paul Tol, "Colour schemes", 2021.
"""

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
PINK = "#CC79A7"
VERMILION = "#D55E00"
YELLOW = "#F0E442"
MUTED_BLUE = "#4C6A85"  # ours, for large areas

# Areas are light and lines are dark, so that no class is taken for a run.
CLASSES = ("#EE8866", "#77AADD", "#BBCC33", "#FFAABB", "#EEDD88", "#99DDFF", "#AAAA00")
RUNS = (BLUE, VERMILION, GREEN, "#AA3377", "#997700", "#777777")
