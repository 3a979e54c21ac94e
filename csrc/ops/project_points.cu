// project_points: points in the world to x, y in NDC and the depth in view space.
//
//   points (N,P,3), R (C,3,3), t (C,3), M (D,4,4), for row vectors; C and D are 1 or N
//   view = p R + t,  h = (view, 1) M,  ->  (h_x / h_w, h_y / h_w, view_z)
//
// Backward, a camera sums what its points say of it: within chunks of points, then over the chunks, both in order.
#include <algorithm>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "math/vec.h"

namespace recon {

namespace {

// A point exactly at the camera has no projection. Tiny depths keep (x / z) z = x, on which clipping relies.
constexpr double tiny_depth = 1e-12;

template <class T>
struct Projection {
  Vec3<T> view;
  T x, y, divisor;
  bool divisor_moves;  // with the point
};

template <class T>
struct Cameras {
  const T *points, *R, *t, *M;
  int64_t N, P, views, projections;
  T eps;

  RECON_HD const T* rotation(int64_t n) const { return R + (views == 1 ? 0 : 9 * n); }
  RECON_HD const T* matrix(int64_t n) const { return M + (projections == 1 ? 0 : 16 * n); }

  // Of point i of batch item n.
  RECON_HD Projection<T> project(int64_t n, int64_t i) const {
    const Vec3<T> p = point(n, i);
    const T *r = rotation(n), *m = matrix(n);
    Projection<T> q;
    q.view = p.x * Vec3<T>::load(r) + p.y * Vec3<T>::load(r + 3) + p.z * Vec3<T>::load(r + 6);
    q.view += Vec3<T>::load(t + (views == 1 ? 0 : 3 * n));
    const auto h = [&](int c) { return q.view.x * m[c] + q.view.y * m[4 + c] + q.view.z * m[8 + c] + m[12 + c]; };
    const T w = h(3), size = w < T(0) ? -w : w;
    q.divisor_moves = w != T(0) && !(size < eps);
    q.divisor = w == T(0) ? T(tiny_depth) : w;
    if (size < eps) q.divisor = w < T(0) ? -eps : eps;
    q.x = h(0) / q.divisor, q.y = h(1) / q.divisor;
    return q;
  }

  RECON_HD Vec3<T> point(int64_t n, int64_t i) const { return Vec3<T>::load(points + 3 * (n * P + i)); }
};

template <class T>
struct Project {
  Cameras<T> cameras;
  T* projected;

  RECON_HD void operator()(int64_t at) const {
    const Projection<T> q = cameras.project(at / cameras.P, at % cameras.P);
    Vec3<T>{q.x, q.y, q.view.z == T(0) ? T(tiny_depth) : q.view.z}.store(projected + 3 * at);
  }
};

// What the gradient of a projected point says of its view position and of h_x, h_y and h_w.
template <class T>
struct PointGradient {
  Vec3<T> view, position;
  T h[3];

  RECON_HD PointGradient(const Cameras<T>& cameras, const T* grad, int64_t n, int64_t i) {
    const Projection<T> q = cameras.project(n, i);
    const Vec3<T> g = Vec3<T>::load(grad + 3 * (n * cameras.P + i));
    const T* m = cameras.matrix(n);
    h[0] = g.x / q.divisor, h[1] = g.y / q.divisor;
    h[2] = q.divisor_moves ? -(h[0] * q.x + h[1] * q.y) : T(0);
    T by_row[3];
    for (int r = 0; r < 3; ++r) by_row[r] = m[4 * r] * h[0] + m[4 * r + 1] * h[1] + m[4 * r + 3] * h[2];
    view = Vec3<T>::load(by_row);
    if (q.view.z != T(0)) view.z += g.z;
    position = q.view;
  }
};

template <class T>
struct ProjectBackward {
  Cameras<T> cameras;
  const T* grad;
  T* grad_points;

  RECON_HD void operator()(int64_t at) const {
    const int64_t n = at / cameras.P;
    const PointGradient<T> g(cameras, grad, n, at % cameras.P);
    const T* r = cameras.rotation(n);
    Vec3<T>{dot(g.view, Vec3<T>::load(r)), dot(g.view, Vec3<T>::load(r + 3)), dot(g.view, Vec3<T>::load(r + 6))}.store(
        grad_points + 3 * at);
  }
};

// The terms of a camera: 9 for R, 3 for t, and 12 for the columns x, y, w of M.
constexpr int num_terms = 24;
constexpr int64_t chunk_size = 256;

template <class T>
struct ChunkSums {
  Cameras<T> cameras;
  const T* grad;
  int64_t chunks;  // of each item
  double* sums;

  RECON_HD void operator()(int64_t at) const {
    const int64_t n = at / chunks, begin = at % chunks * chunk_size;
    const int64_t end = begin + chunk_size < cameras.P ? begin + chunk_size : cameras.P;
    double sum[num_terms] = {};
    for (int64_t i = begin; i < end; ++i) {
      const PointGradient<T> g(cameras, grad, n, i);
      const Vec3<T> p = cameras.point(n, i), v = g.position;
      const T point[4] = {p.x, p.y, p.z, T(1)}, view[4] = {v.x, v.y, v.z, T(1)};
      const T by_view[3] = {g.view.x, g.view.y, g.view.z};
      for (int r = 0; r < 4; ++r)
        for (int c = 0; c < 3; ++c) {
          sum[3 * r + c] += static_cast<double>(point[r] * by_view[c]);
          sum[12 + 3 * r + c] += static_cast<double>(view[r] * g.h[c]);
        }
    }
    for (int k = 0; k < num_terms; ++k) sums[num_terms * at + k] = sum[k];
  }
};

// One term of one camera, in the chunks of one item, or of all where there is one camera.
template <class T>
struct CameraSums {
  const double* sums;
  int64_t chunks;  // of a camera
  int first;       // 0 for R and t, 12 for M
  T *head, *tail;  // R and t, or M and null

  RECON_HD void operator()(int64_t at) const {
    const int64_t camera = at / 12;
    const int k = static_cast<int>(at % 12);
    double sum = 0;
    for (int64_t c = camera * chunks; c < (camera + 1) * chunks; ++c) sum += sums[num_terms * c + first + k];
    const T value = static_cast<T>(sum);
    if (first == 0) {
      if (k < 9 && head) head[9 * camera + k] = value;
      if (k >= 9 && tail) tail[3 * camera + k - 9] = value;
      return;
    }
    constexpr int column[3] = {0, 1, 3};
    T* row = head + 16 * camera + 4 * (k / 3);
    row[column[k % 3]] = value;
    if (k % 3 == 2) row[2] = T(0);  // the depth that M gives is not read
  }
};

template <class T>
Cameras<T> cameras_of(const Tensor& points, const Tensor& R, const Tensor& t, const Tensor& M, double eps) {
  const Cameras<T> cameras = {points.packed<T>(), R.packed<T>(), t.packed<T>(), M.packed<T>(),      points.shape[0],
                              points.shape[1],    R.shape[0],    M.shape[0],    static_cast<T>(eps)};
  const auto check = [&](const char* name, int64_t count) {
    if (count != 1 && count != cameras.N)
      throw std::invalid_argument(std::string("project_points: ") + name + " must have a batch of 1, or of " +
                                  std::to_string(cameras.N) + " like the points, got " + std::to_string(count));
  };
  check("R", cameras.views), check("matrix", cameras.projections);
  return cameras;
}

constexpr int64_t grain = 8192;

}  // namespace

void project_points(Tensor points, Tensor R, Tensor t, Tensor M, double eps, Tensor projected) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto cameras = cameras_of<T>(points, R, t, M, eps);
    parallel_for(points.device, cameras.N * cameras.P, Project<T>{cameras, projected.packed<T>()}, grain);
  });
}
RECON_OP(project_points, "points: N P 3, R: C 3 3, T: C 3, matrix: D 4 4, eps: real, projected: N P 3");

void project_points_backward(Tensor points, Tensor R, Tensor t, Tensor M, double eps, std::optional<Tensor>,
                             Tensor grad_projected, std::optional<Tensor> grad_points, std::optional<Tensor> grad_R,
                             std::optional<Tensor> grad_t, std::optional<Tensor> grad_M) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Device& device = points.device;
    const auto cameras = cameras_of<T>(points, R, t, M, eps);
    const T* grad = grad_projected.packed<T>();
    const auto data = [](const std::optional<Tensor>& a) { return a ? a->packed<T>() : nullptr; };
    if (grad_points)
      parallel_for(device, cameras.N * cameras.P, ProjectBackward<T>{cameras, grad, data(grad_points)}, grain);
    if (!grad_R && !grad_t && !grad_M) return;
    const int64_t chunks = (cameras.P + chunk_size - 1) / chunk_size;
    const Scratch<double> sums(num_terms * cameras.N * chunks, device);
    parallel_for(device, cameras.N * chunks, ChunkSums<T>{cameras, grad, chunks, sums.data()}, grain / chunk_size);
    const auto add_up = [&](int64_t count, int first, T* head, T* tail) {
      const int64_t of_camera = count == 1 ? cameras.N * chunks : chunks;
      parallel_for(device, 12 * count, CameraSums<T>{sums.data(), of_camera, first, head, tail});
    };
    if (grad_R || grad_t) add_up(cameras.views, 0, data(grad_R), data(grad_t));
    if (grad_M) add_up(cameras.projections, 12, data(grad_M), nullptr);
  });
}
RECON_OP(project_points_backward,
         "points: N P 3, R: C 3 3, T: C 3, matrix: D 4 4, eps: real, projected?: N P 3, grad_projected: N P 3, "
         "grad_points?: N P 3, grad_R?: C 3 3, grad_T?: C 3, grad_matrix?: D 4 4");

}  // namespace recon
