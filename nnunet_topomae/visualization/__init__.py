"""Pictures of what was learnt. Each function draws one figure and writes it; none touches matplotlib's global state."""
