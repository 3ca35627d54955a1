"""Build the objects, hand them to each other, print, exit."""
