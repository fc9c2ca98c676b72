"""Reads glTF 2.0 files, .glb and .gltf: see `load`. The writer is `files.meshes.gltf`."""
