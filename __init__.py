"""TRELLIS.2 for ComfyUI: image to 3D mesh with PBR materials, with no compiled extension.

ComfyUI loads this folder by path and reads the two mappings. Outside a package (pytest imports the root's
`__init__` on its own, with no parent) there is nothing to export.
"""

if __package__:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
