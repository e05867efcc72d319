"""Blender's add-on: renders the scene on a Coalition farm. Properties > Output > Coalition; server and token in its preferences.

The farm renders the file as it is on disk, under the same path on its workers (or one that `[paths]` of cloud.ini translates).
"""

import os
import re
import shlex
import sys
from pathlib import Path

import bpy

LIBRARY = str(Path(__file__).resolve().parent / "lib")  # the client, packed beside this file; one that is installed goes first
if LIBRARY not in sys.path:
    sys.path.append(LIBRARY)

from coalition.client import Client  # noqa: E402
from coalition.errors import CoalitionError  # noqa: E402

bl_info = {
    "name": "Coalition render farm",
    "author": "the Coalition developers",
    "version": (1, 0, 0),
    "blender": (2, 93, 0),
    "location": "Properties > Output > Coalition",
    "description": "Renders the scene's frames on a Coalition farm",
    "category": "Render",
}
FAULT = "^Error: "  # Blender ends with 0 all the same


class CoalitionPreferences(bpy.types.AddonPreferences):
    """Of the user and not of the file: a token does not travel in a scene."""

    bl_idname = __name__
    server: bpy.props.StringProperty(name="Server", description="Its address; empty: COALITION_SERVER, or this machine's")
    token: bpy.props.StringProperty(name="Token", subtype="PASSWORD", description="Empty: COALITION_TOKEN")
    blender: bpy.props.StringProperty(name="Blender on the workers", default="blender")

    def draw(self, context):
        for name in ("server", "token", "blender"):
            self.layout.prop(self, name)


class CoalitionSettings(bpy.types.PropertyGroup):
    """What a scene says of its job."""

    chunk: bpy.props.IntProperty(name="Frames a job", default=1, min=1, max=100_000)
    priority: bpy.props.IntProperty(name="Priority", default=127, min=0, max=255)
    affinity: bpy.props.StringProperty(name="Tags", description="That its workers must have, with commas between them")
    job: bpy.props.IntProperty(name="Job", description="What was submitted last; 0: nothing")


def job_of(scene, path, blender):
    """What is submitted for a scene of the file at `path`: the fields of coalition.model.JobSpec."""
    step = f"x{scene.frame_step}" if scene.frame_step > 1 else ""
    render = f"--scene {shlex.quote(scene.name)} --frame-start {{start}} --frame-end {{end}} --frame-jump {scene.frame_step}"
    return {
        "title": f"{Path(path).stem} {scene.name}",
        "command": f"{blender} --background {shlex.quote(path)} {render} --render-anim",
        "dir": os.path.dirname(path),
        "frames": f"{scene.frame_start}-{scene.frame_end}{step}",
        "chunk": scene.coalition.chunk,
        "priority": scene.coalition.priority,
        "affinity": re.findall(r"[^,\s]+", scene.coalition.affinity),
        "error_patterns": [FAULT],
    }


class CoalitionSubmit(bpy.types.Operator):
    """Save the file and render its frames on the farm"""

    bl_idname = "coalition.submit"
    bl_label = "Render on the farm"

    def execute(self, context):
        scene, chosen = context.scene, context.preferences.addons[__name__].preferences
        if not bpy.data.filepath:
            self.report({"ERROR"}, "Save the file first: the workers open it by its path")
            return {"CANCELLED"}
        bpy.ops.wm.save_mainfile()
        try:
            with Client(chosen.server or None, token=chosen.token or None) as farm:
                scene.coalition.job = farm.submit(**job_of(scene, bpy.data.filepath, chosen.blender))
        except CoalitionError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"Job {scene.coalition.job} was submitted")
        return {"FINISHED"}


class CoalitionPanel(bpy.types.Panel):
    bl_idname = "OUTPUT_PT_coalition"
    bl_label = "Coalition"
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "output"

    def draw(self, context):
        for name in ("chunk", "priority", "affinity"):
            self.layout.prop(context.scene.coalition, name)
        self.layout.operator(CoalitionSubmit.bl_idname)
        if context.scene.coalition.job:
            self.layout.label(text=f"Job {context.scene.coalition.job} was submitted")


CLASSES = (CoalitionPreferences, CoalitionSettings, CoalitionSubmit, CoalitionPanel)


def register():
    for one in CLASSES:
        bpy.utils.register_class(one)
    bpy.types.Scene.coalition = bpy.props.PointerProperty(type=CoalitionSettings)


def unregister():
    del bpy.types.Scene.coalition
    for one in reversed(CLASSES):
        bpy.utils.unregister_class(one)
