"""What the book's first chapter reads from PLY and OBJ files, printed. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.io import load_obj, load_ply

torch.set_printoptions(threshold=1000)
for path in sys.argv[1:]:
    print("file", path)
    if path.endswith(".ply"):
        vertices, faces = load_ply(path)
        print("Type of vertices = ", type(vertices), ", type of faces = ", type(faces))
        print("vertices = ", vertices)
        print("faces = ", faces)
        continue
    vertices, faces, aux = load_obj(path)
    print("Type of vertices = ", type(vertices))
    print("Type of faces = ", type(faces))
    print("Type of aux = ", type(aux))
    print("vertices = ", vertices)
    print("faces = ", faces)
    print("aux = ", aux)
    texture_images = getattr(aux, "texture_images")  # noqa: B009
    print("texture_images type = ", type(texture_images))
    if "Skin" in texture_images:
        print(texture_images["Skin"].shape)
