"""Build objects, hand them to each other, print, exit: the one room that does so.

Commands import what they need when they run, so that `gate --help` is quick.
"""
