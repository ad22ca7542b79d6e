"""Models: one module a back-end. The registry finds a back-end by its module's name."""
