"""Methods: one module an algorithm, parameters on top, pseudo-code below.

The registry finds a method by its module's name.
"""
