"""Nodes that are a whole job each: many pictures at once, and the report on this machine."""
