"""How fast the heavy parts are: ratios to what one would write first, in one run on one machine."""
