"""Turns a checkpoint into a package."""
