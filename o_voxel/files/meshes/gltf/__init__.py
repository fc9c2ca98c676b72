"""glTF 2.0: document, geometry, materials, and the binary container."""
