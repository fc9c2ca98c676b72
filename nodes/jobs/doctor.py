"""A node with the report on this machine."""

from __future__ import annotations

from typing import Any

from ...o_voxel.core.progress import in_background
from ...trellis2.doctor.report import report
from .. import host
from ..widgets import MODEL_GROUP

SECONDS = {False: 5.0, True: 25.0}  # about what it takes, for the bar


class Doctor:
    CATEGORY = MODEL_GROUP
    DESCRIPTION = (
        "Shows a report on this machine to paste into a bug report: versions, cards, what each operation runs on and "
        "why, disk, weights, licences. With a self-test."
    )
    FUNCTION = "examine"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("report",)
    OUTPUT_TOOLTIPS = ("The report as Markdown, without names of users and their folders.",)
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("diagnose", "debug", "system info", "versions", "bug report", "self test", "backend", "check")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        test = (
            "Also make a small object from picture to file, and compare an operation of each kind with its reference: "
            "about 20 seconds, longer where kernels are compiled for the first time."
        )
        return {"required": {"self_test": ("BOOLEAN", {"default": False, "tooltip": test})}}

    @classmethod
    def IS_CHANGED(cls, **widgets: Any) -> float:
        return float("nan")  # drivers, disks and weights change while the graph does not

    def examine(self, self_test: bool) -> dict[str, Any]:
        device, bar = host.working_device(), host.progress()
        places, sources, inside = host.places(), host.weight_sources(), host.host_version()
        text, _ = in_background(
            lambda tell: report(device, places, sources, inside, test=self_test, progress=tell),
            bar,
            SECONDS[self_test],
        )
        host.show_text(text.splitlines())
        return {"ui": {"text": [text]}, "result": (text,)}
