"""Records what PyTorch3D 0.7.9 answers for `recon_engine.transforms` into transforms.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_transforms.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CONVENTIONS = ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX", "XYX", "XZX", "YXY", "YZY", "ZXZ", "ZYZ"]


def inputs() -> dict[str, Tensor]:
    """Random rotations of all kinds and the special ones: identity, tiny, half turns."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    special = torch.tensor(
        [[0, 0, 0], [1e-4, 0, 0], [0, 1e-3, -1e-3], [3.1, 0, 0], [0, 0, 2.0], [1.5, -1.5, 1.0]], dtype=torch.float64
    )
    return {
        "axis_angle": torch.cat([randn(14, 3), special]),
        "quaternion": randn(16, 4),
        "other_quaternion": randn(16, 4),
        "point": randn(16, 3),
        "d6": randn(16, 6),
        "euler": randn(16, 3),
        "cosine": torch.linspace(-1.2, 1.2, 25, dtype=torch.float64),
        "translation": randn(20, 3),
        "factors": randn(20, 3),
        "points": randn(20, 7, 3),
        "projection": torch.eye(4, dtype=torch.float64) + 0.1 * randn(4, 4),
    }


def answers(transforms: Any, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every function of the package `transforms` (PyTorch3D's or ours) on the inputs."""
    T = transforms
    unit = x["quaternion"] / x["quaternion"].norm(dim=1, keepdim=True)
    R = T.axis_angle_to_matrix(x["axis_angle"])
    out = {
        "axis_angle_to_matrix": R,
        "axis_angle_to_matrix_fast": T.axis_angle_to_matrix(x["axis_angle"], fast=True),
        "axis_angle_to_quaternion": T.axis_angle_to_quaternion(x["axis_angle"]),
        "matrix_to_axis_angle": T.matrix_to_axis_angle(R),
        "matrix_to_quaternion": T.matrix_to_quaternion(R),
        "matrix_to_rotation_6d": T.matrix_to_rotation_6d(R),
        "rotation_6d_to_matrix": T.rotation_6d_to_matrix(x["d6"]),
        "quaternion_to_matrix": T.quaternion_to_matrix(x["quaternion"]),
        "quaternion_to_axis_angle": T.quaternion_to_axis_angle(unit),
        "quaternion_raw_multiply": T.quaternion_raw_multiply(x["quaternion"], x["other_quaternion"]),
        "quaternion_multiply": T.quaternion_multiply(x["quaternion"], x["other_quaternion"]),
        "quaternion_invert": T.quaternion_invert(unit),
        "quaternion_apply": T.quaternion_apply(x["quaternion"], x["point"]),
        "standardize_quaternion": T.standardize_quaternion(x["quaternion"]),
        "acos_linear_extrapolation": T.acos_linear_extrapolation(x["cosine"], (-0.9, 0.8)),
        "so3_exp_map": T.so3_exp_map(x["axis_angle"]),
        "so3_log_map": T.so3_log_map(R),
        "so3_rotation_angle": T.so3_rotation_angle(R),
        "so3_relative_angle": T.so3_relative_angle(R, R.roll(1, 0)),
        "so3_relative_cosine": T.so3_relative_angle(R, R.roll(1, 0), cos_angle=True),
        "hat": T.so3.hat(x["axis_angle"]),
        # Rotations by more than a hundredth: below, PyTorch3D clamps the angle.
        "se3_exp_map": T.se3_exp_map(torch.cat([x["translation"], x["axis_angle"]], 1)[:14]),
    }
    out["se3_log_map"] = T.se3_log_map(out["se3_exp_map"])
    for convention in CONVENTIONS:
        out[f"euler_angles_to_matrix_{convention}"] = T.euler_angles_to_matrix(x["euler"], convention)
        out[f"matrix_to_euler_angles_{convention}"] = T.matrix_to_euler_angles(R[:14], convention)
    like = {"dtype": torch.float64}
    motion = T.Rotate(R, **like).translate(x["translation"]).scale(x["factors"]).rotate_axis_angle(30.0, "Y")
    projective = motion.compose(T.Transform3d(matrix=x["projection"]))
    out |= {
        "motion_matrix": motion.get_matrix(),
        "motion_points": motion.transform_points(x["points"]),
        "motion_normals": motion.transform_normals(x["points"]),
        "motion_inverse": motion.inverse().get_matrix(),
        "projective_points": projective.transform_points(x["points"]),
        "projective_points_eps": projective.transform_points(x["points"], eps=0.5),
        "projective_inverse": projective.inverse().get_matrix(),
        "stack": motion.stack(projective)[[0, 25]].get_matrix(),
        "se3_log": T.Rotate(R[:14], **like).translate(x["translation"][:14]).get_se3_log(),
    }
    torch.manual_seed(5)
    out["random_quaternions"] = T.random_quaternions(5, **like)
    out["random_rotations"] = T.random_rotations(5, **like)
    out["random_rotation"] = T.random_rotation(**like)
    return out


if __name__ == "__main__":
    import pytorch3d.transforms

    recorded = answers(pytorch3d.transforms, inputs())
    np.savez_compressed(Path(__file__).with_name("transforms.npz"), **{k: v.numpy() for k, v in recorded.items()})
