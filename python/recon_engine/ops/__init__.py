"""Differentiable operators on meshes, point clouds and images."""

from __future__ import annotations

from recon_engine.ops._composite import composite as composite
from recon_engine.ops._rasterize_faces import rasterize_faces as rasterize_faces
from recon_engine.ops._rasterize_points import rasterize_points as rasterize_points
from recon_engine.ops._render_faces import render_faces as render_faces
from recon_engine.ops._render_points import render_points as render_points
from recon_engine.ops._render_spheres import render_spheres as render_spheres
from recon_engine.ops._sigmoid_alpha_blend import sigmoid_alpha_blend as sigmoid_alpha_blend
from recon_engine.ops._soft_silhouette import soft_silhouette as soft_silhouette
from recon_engine.ops._softmax_blend import softmax_blend as softmax_blend
from recon_engine.ops.ball_query import ball_query as ball_query
from recon_engine.ops.cameras_alignment import corresponding_cameras_alignment as corresponding_cameras_alignment
from recon_engine.ops.cubify import cubify as cubify
from recon_engine.ops.graph_conv import GraphConv as GraphConv
from recon_engine.ops.interp_face_attrs import interpolate_face_attributes as interpolate_face_attributes
from recon_engine.ops.iou_box3d import box3d_overlap as box3d_overlap
from recon_engine.ops.knn import knn_gather as knn_gather
from recon_engine.ops.knn import knn_points as knn_points
from recon_engine.ops.laplacian_matrices import cot_laplacian as cot_laplacian
from recon_engine.ops.laplacian_matrices import laplacian as laplacian
from recon_engine.ops.laplacian_matrices import norm_laplacian as norm_laplacian
from recon_engine.ops.mesh_face_areas_normals import mesh_face_areas_normals as mesh_face_areas_normals
from recon_engine.ops.mesh_filtering import taubin_smoothing as taubin_smoothing
from recon_engine.ops.neighbor_index import NeighborIndex as NeighborIndex
from recon_engine.ops.packed_to_padded import packed_to_padded as packed_to_padded
from recon_engine.ops.packed_to_padded import padded_to_packed as padded_to_packed
from recon_engine.ops.perspective_n_points import efficient_pnp as efficient_pnp
from recon_engine.ops.point_mesh import closest_points_on_mesh as closest_points_on_mesh
from recon_engine.ops.point_mesh import ray_mesh_any_hit as ray_mesh_any_hit
from recon_engine.ops.point_mesh import ray_mesh_intersection as ray_mesh_intersection
from recon_engine.ops.point_mesh import signed_distance as signed_distance
from recon_engine.ops.point_mesh import winding_number as winding_number
from recon_engine.ops.points_alignment import corresponding_points_alignment as corresponding_points_alignment
from recon_engine.ops.points_alignment import iterative_closest_point as iterative_closest_point
from recon_engine.ops.points_normals import (
    estimate_pointcloud_local_coord_frames as estimate_pointcloud_local_coord_frames,
)
from recon_engine.ops.points_normals import estimate_pointcloud_normals as estimate_pointcloud_normals
from recon_engine.ops.points_to_volumes import add_pointclouds_to_volumes as add_pointclouds_to_volumes
from recon_engine.ops.points_to_volumes import (
    add_points_features_to_volume_densities_features as add_points_features_to_volume_densities_features,
)
from recon_engine.ops.sample_farthest_points import sample_farthest_points as sample_farthest_points
from recon_engine.ops.sample_points_from_meshes import sample_points_from_meshes as sample_points_from_meshes
from recon_engine.ops.subdivide_meshes import SubdivideMeshes as SubdivideMeshes
from recon_engine.ops.utils import convert_pointclouds_to_tensor as convert_pointclouds_to_tensor
from recon_engine.ops.utils import eyes as eyes
from recon_engine.ops.utils import get_point_covariances as get_point_covariances
from recon_engine.ops.utils import is_pointclouds as is_pointclouds
from recon_engine.ops.utils import wmean as wmean
from recon_engine.ops.vert_align import vert_align as vert_align
