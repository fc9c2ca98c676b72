"""Projection of pictures onto the texture of what they show: camera, what is seen, light, blending."""

from .fit import MOST_APART, CameraFit, FitOptions, fit_camera
from .picture import Picture, overlay
from .project import ProjectOptions, project_found, project_pictures

__all__ = [
    "MOST_APART",
    "CameraFit",
    "FitOptions",
    "Picture",
    "ProjectOptions",
    "fit_camera",
    "overlay",
    "project_found",
    "project_pictures",
]
