"""glTF 2.0 writer: document, geometry, materials, and the GLB container."""
