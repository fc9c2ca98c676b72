"""TRELLIS.2 for ComfyUI: image to 3D mesh with PBR materials, with no compiled extension.

ComfyUI loads this folder by path, reads the two mappings and serves the scripts of `web`. Outside a package (pytest
imports the root's `__init__` on its own, with no parent) there is nothing to export.
"""

if __package__:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    WEB_DIRECTORY = "./web"

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
