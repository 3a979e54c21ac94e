"""Four small rotations as vectors, skew-symmetric matrices and rotation matrices. It imports pytorch3d only."""

import torch
from pytorch3d.transforms.so3 import hat, hat_inv, so3_exp_map, so3_log_map

torch.set_printoptions(precision=7)
log_rot = 1e-4 * torch.tensor([[10.0, 1, 2], [1, 10, 2], [1, 2, 10], [10, 20, 30]])
log_rot_hat = hat(log_rot)
print("log_rot_hat shape = ", log_rot_hat.shape)
print("log_rot_hat = ", log_rot_hat)
log_rot_copy = hat_inv(log_rot_hat)
print("log_rot_copy shape = ", log_rot_copy.shape)
print("log_rot_copy = ", log_rot_copy)
rotation_matrices = so3_exp_map(log_rot)
print("rotation_matrices = ", rotation_matrices)
log_rot_again = so3_log_map(rotation_matrices)
print("log_rot_again = ", log_rot_again)
