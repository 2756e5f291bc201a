"""Showing it: the HTTP API."""
