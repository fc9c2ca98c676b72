"""Writes the files that are made from the nodes: example workflows, help pages, the table of nodes. Not shipped."""
