"""Workers that do one piece of work over and over, and a controller that times them in turns and prints ratios."""
