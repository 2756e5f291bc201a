"""Doing it: the one task function and the executors."""
