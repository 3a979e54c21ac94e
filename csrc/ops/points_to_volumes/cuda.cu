// Forward: the volumes are copied, one thread for a point and channel adds its votes by atomics, and one thread for a
// voxel divides. In deterministic mode a thread owns a channel of some planes and goes through all points in order.
// Backward: one thread for a point, which reads what its voxels say.
#include <algorithm>

#include "core/parallel.h"
#include "ops/points_to_volumes/kernels.h"

namespace recon {

namespace {

// Channel C of a volume is its density.
template <class T>
RECON_HD T* channel_of(const Votes<T>& v, int64_t n, int64_t c) {
  return c == v.C ? v.densities + n * v.V : v.volumes + (n * v.C + c) * v.V;
}

template <class T>
RECON_HD T vote_value(const Votes<T>& v, int64_t n, int64_t i, int64_t c) {
  return c == v.C ? v.weight : v.weight * v.features[(n * v.P + i) * v.C + c];
}

template <class T>
struct CopyVolumes {
  Votes<T> v;

  RECON_HD void operator()(int64_t i) const {
    if (i < v.N * v.V) v.densities[i] = v.initial_densities[i];
    if (i < v.N * v.C * v.V) v.volumes[i] = v.initial_features[i];
  }
};

template <class T>
struct AddVotes {
  Votes<T> v;

  RECON_HD void operator()(int64_t index) const {
    const int64_t c = index % (v.C + 1), n = index / (v.C + 1) / v.P, i = index / (v.C + 1) % v.P;
    Place<T> place;
    if (!find_place(v, n, i, place)) return;
    T* channel = channel_of(v, n, c);
    const T value = vote_value(v, n, i, c);
    for_each_vote(v, n, place, [&](int64_t voxel, const T* share, const int*) {
      atomic_add(channel + voxel, share[0] * share[1] * share[2] * value);
    });
  }
};

template <class T>
struct AddVotesInOrder {
  Votes<T> v;
  int64_t shares;  // of the planes

  RECON_HD void operator()(int64_t index) const {
    const int64_t turn = index % shares, c = index / shares % (v.C + 1), n = index / shares / (v.C + 1);
    const int64_t plane = v.size[1] * v.size[2];
    T* channel = channel_of(v, n, c);
    for (int64_t i = 0; i < v.P; ++i) {
      Place<T> place;
      if (!find_place(v, n, i, place)) continue;
      const T value = vote_value(v, n, i, c);
      for_each_vote(v, n, place, [&](int64_t voxel, const T* share, const int*) {
        if (voxel / plane % shares == turn) channel[voxel] += share[0] * share[1] * share[2] * value;
      });
    }
  }
};

template <class T>
struct Rescale {
  Votes<T> v;

  RECON_HD void operator()(int64_t i) const {
    const int64_t n = i / v.V / v.C;
    v.volumes[i] /= v.divisor(v.densities[n * v.V + i % v.V]);
  }
};

template <class T>
struct PointGradients {
  Votes<T> v;

  RECON_HD void operator()(int64_t index) const {
    Place<T> place;
    if (find_place(v, index / v.P, index % v.P, place)) vote_gradients(v, index / v.P, index % v.P, place);
  }
};

template <class T>
struct InitialGradients {
  Votes<T> v;

  RECON_HD void operator()(int64_t index) const { initial_gradients(v, index / v.V, index % v.V, index % v.V + 1); }
};

}  // namespace

template <class T>
void points_to_volumes_cuda(const Votes<T>& v, const Device& device) {
  parallel_for(device, v.N * v.V * std::max<int64_t>(v.C, 1), CopyVolumes<T>{v});
  if (deterministic()) {
    const int64_t shares = std::max<int64_t>(v.size[0], 1);
    parallel_for(device, v.N * (v.C + 1) * shares, AddVotesInOrder<T>{v, shares});
  } else {
    parallel_for(device, v.N * v.P * (v.C + 1), AddVotes<T>{v});
  }
  if (v.rescale) parallel_for(device, v.N * v.C * v.V, Rescale<T>{v});
}

template <class T>
void points_to_volumes_backward_cuda(const Votes<T>& v, const Device& device) {
  if (v.grad_points || v.grad_features) parallel_for(device, v.N * v.P, PointGradients<T>{v});
  if (v.grad_initial_densities || v.grad_initial_features) parallel_for(device, v.N * v.V, InitialGradients<T>{v});
}

template void points_to_volumes_cuda(const Votes<float>&, const Device&);
template void points_to_volumes_cuda(const Votes<double>&, const Device&);
template void points_to_volumes_backward_cuda(const Votes<float>&, const Device&);
template void points_to_volumes_backward_cuda(const Votes<double>&, const Device&);

}  // namespace recon
