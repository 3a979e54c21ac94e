// One thread for a ray, through the tensors as they are. What the backward pass remembers of the samples lies in
// scratch memory, neighbouring rays side by side, for as many rays at once as fit into a fixed size. Voxels are added
// to by atomics; in deterministic mode a thread owns the voxels of one row and goes through all rays in order.
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/march_volume/kernels.h"

namespace recon {

namespace {

constexpr int64_t note_bytes = int64_t{64} << 20;

// The voxels around one sample.
template <class T>
struct Sample {
  int64_t first[3];
  T weight[3][2], slope[3][2];
  bool inside;

  RECON_HD Sample(const MarchVolume<T>& p, int64_t ray, T length, bool with_slopes = false) : inside(true) {
    for (int axis = 0; axis < 3; ++axis) {
      const T local = p.origins[3 * ray + axis] + length * p.directions[3 * ray + axis];
      const T x = Neighbours<T, T>::coordinate(p, axis, local);
      const Neighbours<T, T> n(p, axis, x);
      first[axis] = static_cast<int64_t>(n.first);
      weight[axis][0] = n.low, weight[axis][1] = n.high;
      inside = inside && (n.low > T(0) || n.high > T(0));
      if (with_slopes) n.slopes(p, axis, x, slope[axis][0], slope[axis][1]);
    }
  }
  RECON_HD int64_t voxel(const MarchVolume<T>& p, int k) const {
    return (first[2] * p.size[1] + first[1]) * p.size[0] + first[0] + (k & 1 ? p.step(0) : 0) +
           (k & 2 ? p.step(1) : 0) + (k & 4 ? p.step(2) : 0);
  }
  RECON_HD T corner(int k) const { return weight[0][k & 1] * weight[1][k >> 1 & 1] * weight[2][k >> 2 & 1]; }
  RECON_HD T corner_slope(int k, int axis) const {
    T product(1);
    for (int other = 0; other < 3; ++other) product *= (other == axis ? slope : weight)[other][k >> other & 1];
    return product;
  }
  // sum_k weight_k plane_k
  RECON_HD T read(const MarchVolume<T>& p, const T* plane) const {
    T sum(0);
    for (int k = 0; k < 8; ++k) sum += corner(k) * plane[voxel(p, k)];
    return sum;
  }
};

template <class T>
RECON_HD T magnitude(T x) {
  return x < T(0) ? -x : x;
}

template <class T>
struct MarchVolumeRay {
  MarchVolume<T> p;
  T* densities;  // S rays, of the rays from `first` on
  int64_t first, count;

  RECON_HD void operator()(int64_t r) const {
    const int64_t ray = first + r, volume = p.volume_of(ray);
    const T *density = p.densities + volume * p.voxels(), *features = p.features + volume * p.C * p.voxels();
    T* out = p.out + ray * (p.C + 1);
    for (int64_t c = 0; c < p.C; ++c) out[c] = T(0);
    Light<T> light;
    T clear(1);
    for (int64_t i = 0; i < p.S && !(magnitude(light.left) < p.least); ++i) {
      const Sample<T> sample(p, ray, p.lengths[ray * p.length_step + i]);
      const T a = sample.inside ? sample.read(p, density) : T(0);
      densities[i * count + r] = a;
      clear *= T(1) - a;
      if (i >= p.shift) light.pass(p.full - densities[(i - p.shift) * count + r]);
      const T weight = a * light.left;
      if (!sample.inside) continue;
      for (int64_t c = 0; c < p.C; ++c) out[c] += weight * sample.read(p, features + c * p.voxels());
    }
    out[p.C] = T(1) - clear;
  }
};

// What is known of the samples of some rays: S rays each.
template <class T>
struct VolumeNotes {
  static constexpr int number = 5;
  T *density, *slope, *light, *clear, *before;
  int64_t first, count;

  VolumeNotes(T* at, int64_t size, int64_t first_ray, int64_t rays)
      : density(at),
        slope(at + size),
        light(at + 2 * size),
        clear(at + 3 * size),
        before(at + 4 * size),
        first(first_ray),
        count(rays) {}
};

template <class T>
struct MarchVolumeBackward {
  MarchVolume<T> p;
  VolumeNotes<T> notes;
  bool in_order;  // voxels are left to AddInOrder

  RECON_HD void operator()(int64_t r) const {
    const int64_t ray = notes.first + r, volume = p.volume_of(ray), voxels = p.voxels();
    const T *density = p.densities + volume * voxels, *features = p.features + volume * p.C * voxels;
    const T *lengths = p.lengths + ray * p.length_step, *G = p.grad_out + ray * (p.C + 1);
    Light<T> light;
    T clear(1), before(1);
    int64_t end = 0;
    for (; end < p.S && !(magnitude(light.but_one) < p.least); ++end) {
      const Sample<T> sample(p, ray, lengths[end]);
      const int64_t at = end * notes.count + r;
      const T a = sample.inside ? sample.read(p, density) : T(0);
      T slope(0);
      for (int64_t c = 0; sample.inside && c < p.C; ++c) slope += G[c] * sample.read(p, features + c * voxels);
      notes.density[at] = a, notes.slope[at] = slope;
      if (end >= p.shift) light.pass(p.full - notes.density[at - p.shift * notes.count]);
      notes.light[at] = light.left, notes.clear[at] = clear, notes.before[at] = before;
      clear *= T(1) - a, before *= p.full - a;
    }
    T behind(0), product(1), of_origin[3] = {}, of_direction[3] = {};
    for (int64_t j = p.S - 1; j >= 0; --j) {
      const int64_t at = j * notes.count + r;
      if (j >= end) {
        notes.density[at] = notes.light[at] = T(0);
        if (p.grad_lengths) p.grad_lengths[ray * p.S + j] = T(0);
        continue;
      }
      const T a = notes.density[at], slope = notes.slope[at];
      if (j + 1 < end) behind *= p.full - notes.clear[at + notes.count];
      if (j + p.shift < end) behind += p.shift == 0 ? a * slope : notes.before[at + p.shift * notes.count];
      const T of_density = notes.light[at] * slope - notes.before[at] * behind + G[p.C] * notes.clear[at] * product;
      const T weight = a * notes.light[at];
      product *= T(1) - a;
      // The two products of this sample are not needed any more, and what is needed of it takes their places.
      notes.clear[at] = a, notes.before[at] = a * slope;
      notes.density[at] = of_density, notes.light[at] = weight;
      T of_point[3] = {};
      give(ray, lengths[j], of_density, weight, of_point);
      T of_length(0);
      for (int axis = 0; axis < 3; ++axis) {
        of_origin[axis] += of_point[axis];
        of_direction[axis] += lengths[j] * of_point[axis];
        of_length += p.directions[3 * ray + axis] * of_point[axis];
      }
      if (p.grad_lengths) p.grad_lengths[ray * p.S + j] = of_length;
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (p.grad_origins) p.grad_origins[3 * ray + axis] = of_origin[axis];
      if (p.grad_directions) p.grad_directions[3 * ray + axis] = of_direction[axis];
    }
  }

  // The gradient of one sample to its voxels and to its place.
  RECON_HD void give(int64_t ray, T length, T of_density, T weight, T* of_point) const {
    const bool moves = !p.nearest && (p.grad_origins || p.grad_directions || p.grad_lengths);
    const bool adds = !in_order && (p.grad_densities || p.grad_features);
    if (!moves && !adds) return;
    const Sample<T> sample(p, ray, length, moves);
    if (!sample.inside) return;
    const int64_t volume = p.volume_of(ray), voxels = p.voxels();
    const T* G = p.grad_out + ray * (p.C + 1);
    for (int k = 0; k < 8; ++k) {
      const T share = sample.corner(k);
      const int64_t voxel = sample.voxel(p, k);
      T dot = of_density * p.densities[volume * voxels + voxel];
      if (adds && p.grad_densities) atomic_add(p.grad_densities + volume * voxels + voxel, share * of_density);
      for (int64_t c = 0; c < p.C; ++c) {
        const int64_t at = (volume * p.C + c) * voxels + voxel;
        if (moves) dot += weight * G[c] * p.features[at];
        if (adds && p.grad_features) atomic_add(p.grad_features + at, share * weight * G[c]);
      }
      for (int axis = 0; moves && axis < 3; ++axis) of_point[axis] += sample.corner_slope(k, axis) * dot;
    }
  }
};

// Row i of the voxels of all volumes gets what the noted rays give it.
template <class T>
struct AddInOrder {
  MarchVolume<T> p;
  VolumeNotes<T> notes;

  RECON_HD void operator()(int64_t i) const {
    const int64_t y = i % p.size[1], z = i / p.size[1] % p.size[2], volume = i / (p.size[1] * p.size[2]);
    const int64_t voxels = p.voxels();
    for (int64_t r = 0; r < notes.count; ++r) {
      const int64_t ray = notes.first + r;
      if (p.volume_of(ray) != volume) continue;
      const T* G = p.grad_out + ray * (p.C + 1);
      for (int64_t s = 0; s < p.S; ++s) {
        const Sample<T> sample(p, ray, p.lengths[ray * p.length_step + s]);
        const int64_t far_y = y - sample.first[1], far_z = z - sample.first[2];
        if (!sample.inside || far_y < 0 || far_y > 1 || far_z < 0 || far_z > 1) continue;
        const T of_density = notes.density[s * notes.count + r], weight = notes.light[s * notes.count + r];
        for (int far_x = 0; far_x < 2 && sample.first[0] + far_x < p.size[0]; ++far_x) {
          const T share = sample.weight[0][far_x] * sample.weight[1][far_y] * sample.weight[2][far_z];
          const int64_t voxel = (z * p.size[1] + y) * p.size[0] + sample.first[0] + far_x;
          if (p.grad_densities) p.grad_densities[volume * voxels + voxel] += share * of_density;
          for (int64_t c = 0; p.grad_features && c < p.C; ++c)
            p.grad_features[(volume * p.C + c) * voxels + voxel] += share * weight * G[c];
        }
      }
    }
  }
};

template <class T>
struct Zero {
  T* values;

  RECON_HD void operator()(int64_t i) const { values[i] = T(0); }
};

}  // namespace

template <class T>
void march_volume_cuda(const MarchVolume<T>& p, const Device& device) {
  const int64_t numbers = p.out ? 1 : VolumeNotes<T>::number, one = numbers * p.S * static_cast<int64_t>(sizeof(T));
  const int64_t at_once = std::min(p.rays(), std::max<int64_t>(4096, note_bytes / (one + 1)));
  const Scratch<T> notes(numbers * at_once * p.S, device);
  if (p.grad_densities) parallel_for(device, p.V * p.voxels(), Zero<T>{p.grad_densities});
  if (p.grad_features) parallel_for(device, p.V * p.C * p.voxels(), Zero<T>{p.grad_features});
  for (int64_t first = 0; first < p.rays(); first += at_once) {
    const int64_t rays = std::min(at_once, p.rays() - first);
    if (p.out) {
      parallel_for(device, rays, MarchVolumeRay<T>{p, notes.data(), first, rays});
      continue;
    }
    const VolumeNotes<T> some(notes.data(), rays * p.S, first, rays);
    parallel_for(device, rays, MarchVolumeBackward<T>{p, some, deterministic()});
    if (deterministic() && p.wants_voxels()) parallel_for(device, p.V * p.size[2] * p.size[1], AddInOrder<T>{p, some});
  }
}

template void march_volume_cuda(const MarchVolume<float>&, const Device&);
template void march_volume_cuda(const MarchVolume<double>&, const Device&);

}  // namespace recon
