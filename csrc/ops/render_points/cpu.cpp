// One task for a tile. Its points come by depth, each to registers of neighbouring pixels: what lies in front of it is
// known by then, so nothing is kept of the K points that a pixel has. Backward, what each point meets is noted on the
// way from front to back and differentiated on the way back; a point's gradient is summed within the tile. Points that
// reach into several tiles get those sums afterwards, tile by tile: the same bits for any number of threads.
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "core/rows.h"
#include "math/scatter.h"
#include "ops/render_points/kernels.h"
#include "raster/point_tile.h"

namespace recon {
namespace RECON_SIMD {

// Found by the arguments' namespace, as the other functions of registers are.
template <class T>
inline Pack<T> power(Pack<T> base, Pack<T> exponent) {
  return exp(exponent * log(base));
}

namespace {

constexpr int most_rows = 16;
constexpr int tile_pixels = point_tile_width * most_rows;

// Tiles whose channels fit the second-level cache.
int tile_height_for(int64_t C) { return C <= 128 ? most_rows : 4; }

// A number for each pixel of a tile.
template <class T>
struct PixelValues {
  alignas(64) T values[tile_pixels];

  void fill(T value) { std::fill(std::begin(values), std::end(values), value); }
  Pack<T> load(int first) const { return Pack<T>::load(values + first); }
  void store(int first, Mask<T> lanes, Pack<T> v) { select(lanes, v, load(first)).store(values + first); }
  T& operator[](int pixel) { return values[pixel]; }
};

// Few channels of a tile's pixels: a plane for each, and a register of pixels at a time. N is their number where the
// compiler is to know it, else 0.
template <class T, int N = 0>
class Planes {
  using V = Pack<T>;

 public:
  explicit Planes(int64_t C) : size_(static_cast<int>(C)), planes_(C) {}

  T& at(int pixel, int64_t c) { return planes_[c][pixel]; }
  void clear() {
    for (auto& plane : planes_) plane.fill(T(0));
  }
  // += weight * feature in the lanes that are hit
  void add(int first, Mask<T> hit, V weight, const T* feature) {
    for (int c = 0; c < size(); ++c) planes_[c].store(first, hit, planes_[c].load(first) + weight * V(feature[c]));
  }
  // <value, feature> in the lanes that are hit
  V dot(int first, Mask<T>, const T* feature) const {
    V total(T(0));
    for (int c = 0; c < size(); ++c) total += planes_[c].load(first) * V(feature[c]);
    return total;
  }
  // The sum of weight * value over the lanes that are hit, between begin_sum and end_sum.
  void begin_sum() {
    for (auto& total : sums_) total = V(T(0));
  }
  void add_to_sum(int first, Mask<T> hit, V weight) {
    for (int c = 0; c < size(); ++c) sums_[c] += select(hit, weight * planes_[c].load(first), V(T(0)));
  }
  void end_sum(T* out) const {
    for (int c = 0; c < size(); ++c) out[c] = sum(sums_[c]);
  }

  // Brings the features of a tile's points together.
  void fetch(const TilePoints<T>& points, const T* features) {
    features_.resize(points.size() * size());
    for (int64_t q = 0; q < points.size(); ++q)
      for (int c = 0; c < size(); ++c) features_[q * size() + c] = features[int64_t{points[q].point} * size() + c];
  }
  const T* feature(int64_t place, const TilePoints<T>&, const T*) const { return features_.data() + place * size(); }

  static bool fits(int64_t C) { return C < V::lanes; }

 private:
  int size() const { return N > 0 ? N : size_; }

  int size_;
  std::vector<PixelValues<T>> planes_;
  std::vector<T> features_;
  V sums_[N > 0 ? N : V::lanes];
};

// The same for many channels: a row for each pixel, and a register of channels at a time.
template <class T>
class Rows {
  using V = Pack<T>;

 public:
  explicit Rows(int64_t C) : C_(C), values_(C * tile_pixels), sums_(C) {}

  T& at(int pixel, int64_t c) { return values_[pixel * C_ + c]; }
  void clear() { std::fill(values_.begin(), values_.end(), T(0)); }
  void add(int first, Mask<T> hit, V weight, const T* feature) {
    for_each_lane(first, hit, weight, [&](T* row, T w) { add_scaled(row, w, feature, C_); });
  }
  V dot(int first, Mask<T> hit, const T* feature) {
    alignas(64) T dots[V::lanes] = {};
    for (uint32_t bits = hit.bits(); bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      dots[lane] = RECON_SIMD::dot(&at(first + lane, 0), feature, C_);
    }
    return V::load(dots);
  }
  void begin_sum() { std::fill(sums_.begin(), sums_.end(), T(0)); }
  void add_to_sum(int first, Mask<T> hit, V weight) {
    for_each_lane(first, hit, weight, [&](const T* row, T w) { add_scaled(sums_.data(), w, row, C_); });
  }
  void end_sum(T* out) const { std::copy(sums_.begin(), sums_.end(), out); }
  void fetch(const TilePoints<T>&, const T*) {}
  const T* feature(int64_t place, const TilePoints<T>& points, const T* features) const {
    constexpr int64_t line = 64 / sizeof(T), ahead = 4;
    const T* next = features + points[std::min(place + ahead, points.size() - 1)].point * C_;
    for (int64_t c = 0; c < C_; c += line) __builtin_prefetch(next + c);
    return features + points[place].point * C_;
  }

 private:
  template <class F>
  void for_each_lane(int first, Mask<T> hit, V weight, const F& body) {
    alignas(64) T weights[V::lanes];
    weight.store(weights);
    for (uint32_t bits = hit.bits(); bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      body(&at(first + lane, 0), weights[lane]);
    }
  }

  int64_t C_;
  std::vector<T> values_, sums_;
};

// A point meeting a register of pixels.
template <class T>
struct Meeting {
  Pack<T> before;  // mode alpha: what is left of the light there; else 1
  Pack<T> g;       // backward: <grad image, features>
  Mask<T> hit;
  int32_t place, first;  // of the point by depth; of the pixels
};

// What a thread works with.
template <class T, class Channels>
struct Worker {
  explicit Worker(int64_t C) : channels(C) {}

  TilePoints<T> points;
  std::vector<T> inverse;  // of the scales
  PixelValues<T> count;    // of the points so far
  PixelValues<T> carried;  // mode alpha: the product of their 1 - alpha; else the sum of their alpha
  PixelValues<T> behind;   // backward only
  Channels channels;       // of the image, or of its gradient
  std::vector<Meeting<T>> meetings;
  int64_t num_meetings;

  // What the points of a tile will be asked for is brought together: one by one each would be waited for.
  void fetch(const TiledPoints<T>& scene, const Extent& tile, int64_t index, const PointImage<T>& s) {
    points.set(scene, tile, index);
    inverse.resize(points.size());
    for (int64_t q = 0; q < points.size(); ++q) inverse[q] = T(1) / s.scale[points[q].point];
    channels.fetch(points, s.features);
  }
};

// Calls body(features, place, first pixel, lanes that are hit, what is left of the light, alpha) for the points of a
// tile by depth, as long as pixels have fewer than K.
template <class T, class Channels, class F>
void meet(const TiledPoints<T>& scene, const Extent& tile, const PointImage<T>& s, Worker<T, Channels>& w,
          const F& body) {
  using V = Pack<T>;
  const V one(T(1)), most(static_cast<T>(s.K));
  const bool is_alpha = s.mode == Compositing::alpha;
  w.count.fill(T(0)), w.carried.fill(is_alpha ? T(1) : T(0));
  int open = tile.width * tile.height;  // pixels that have fewer than K
  for (int64_t place = 0; place < w.points.size() && open > 0; ++place) {
    const Disc<T>& disc = w.points[place];
    const T* feature = w.channels.feature(place, w.points, s.features);
    const V inverse(w.inverse[place]);
    for_each_hit(scene, tile, disc, [&](int first, V dist, Mask<T> hit) {
      const V count = w.count.load(first);
      hit = hit & (count < most);
      if (!any(hit)) return;
      w.count.store(first, hit, count + one);
      open -= __builtin_popcount((hit & (count + one >= most)).bits());
      const V alpha = opacity(s, dist * inverse).alpha, carried = w.carried.load(first);
      w.carried.store(first, hit, is_alpha ? carried * (one - alpha) : carried + alpha);
      body(feature, place, first, hit, is_alpha ? carried : one, alpha);
    });
  }
}

// Calls body(pixel of the tile, pixel of the images).
template <class T, class F>
void for_each_pixel(const PointsInput<T>& in, const Extent& tile, const F& body) {
  for (int row = 0; row < tile.height; ++row)
    for (int column = 0; column < tile.width; ++column)
      body(row * point_tile_width + column, (tile.cloud * in.H + tile.y0 + row) * in.W + tile.x0 + column);
}

template <class T, class Channels>
void render(const PointsInput<T>& in, const PointImage<T>& s) {
  const TiledPoints<T> scene(in, tile_height_for(s.C));
  std::vector<Worker<T, Channels>> workers(num_threads(), Worker<T, Channels>(s.C));
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int worker) {
        Worker<T, Channels>& w = workers[worker];
        const Extent tile = extent_of(scene, index);
        w.fetch(scene, tile, index, s);
        w.channels.clear();
        meet(scene, tile, s, w, [&](const T* feature, int64_t, int first, Mask<T> hit, Pack<T> before, Pack<T> alpha) {
          w.channels.add(first, hit, before * alpha, feature);
        });
        const bool is_mean = s.mode == Compositing::norm_weighted;
        for_each_pixel(in, tile, [&](int pixel, int64_t at) {
          const T scale = is_mean ? inverse_sum<T>(w.carried[pixel]) : T(1);
          for (int64_t c = 0; c < s.C; ++c) s.image[at * s.C + c] = scale * w.channels.at(pixel, c);
          s.covered[at] = w.count[pixel] > T(0);
        });
      },
      (2 + s.C) * scene.num_pairs() + in.N * in.H * in.W * s.C);
}

// The gradients of points in a tile: x, y and scale, then the features.
template <class T>
struct TileSums {
  std::vector<int32_t> points;
  std::vector<T> rows;
};

// Starts to fetch what add_to_point will write.
template <class T>
void fetch_gradients(const PointImage<T>& s, int64_t p) {
  constexpr int64_t line = 64 / sizeof(T);
  if (s.grad_points) __builtin_prefetch(s.grad_points + 3 * p, 1);
  if (s.grad_scale) __builtin_prefetch(s.grad_scale + p, 1);
  for (int64_t c = 0; s.grad_features && c < s.C; c += line) __builtin_prefetch(s.grad_features + p * s.C + c, 1);
}

template <class T>
void add_to_point(const PointImage<T>& s, int64_t p, const T* row) {
  if (s.grad_points) s.grad_points[3 * p] += row[0], s.grad_points[3 * p + 1] += row[1];
  if (s.grad_scale) s.grad_scale[p] += row[2];
  if (s.grad_features) add_scaled(s.grad_features + p * s.C, T(1), row + 3, s.C);
}

// Whether no point belongs to two clouds.
template <class T>
bool are_disjoint(const PointsInput<T>& in) {
  for (int64_t n = 1; n < in.N; ++n)
    if (in.first[n] < in.first[n - 1] + in.count[n - 1]) return false;
  return true;
}

// Notes what the points of a tile meet, and what the mode needs of each pixel: in norm_weighted the scale and what is
// behind, which are the same for all points.
template <class T, class Channels>
void note_meetings(const TiledPoints<T>& scene, const Extent& tile, const PointImage<T>& s, Worker<T, Channels>& w) {
  const bool is_mean = s.mode == Compositing::norm_weighted;
  w.channels.clear();
  for_each_pixel(scene.input, tile, [&](int pixel, int64_t at) {
    for (int64_t c = 0; c < s.C; ++c) w.channels.at(pixel, c) = s.grad_image[at * s.C + c];
  });
  w.behind.fill(T(0));
  int64_t most = 0;
  for (int64_t q = 0; q < w.points.size(); ++q) {
    const Disc<T>& d = w.points[q];
    most += (d.j1 - d.j0 + 1) * (d.i1 / Pack<T>::lanes - d.i0 / Pack<T>::lanes + 1);
  }
  if (static_cast<int64_t>(w.meetings.size()) < most) w.meetings.resize(most);
  w.num_meetings = 0;
  meet(scene, tile, s, w, [&](const T* feature, int64_t place, int first, Mask<T> hit, Pack<T> before, Pack<T> alpha) {
    Meeting<T>& m = w.meetings[w.num_meetings++];
    m.before = before, m.hit = hit, m.place = static_cast<int32_t>(place), m.first = first;
    m.g = s.wants_opacity() ? w.channels.dot(first, hit, feature) : Pack<T>(T(0));
    if (is_mean) w.behind.store(first, hit, w.behind.load(first) + alpha * m.g);
  });
  for (int pixel = 0; is_mean && pixel < tile_pixels; ++pixel) {
    const T total = w.carried[pixel], scale = inverse_sum<T>(total);
    w.behind[pixel] = total < least_sum<T> ? T(0) : w.behind[pixel] * scale;
    w.carried[pixel] = scale;
  }
}

// Calls body(point, gradient) for the points of a tile that have one, from the last to the first.
template <class T, class Channels, class F>
void differentiate(const TiledPoints<T>& scene, const Extent& tile, const PointImage<T>& s, Worker<T, Channels>& w,
                   T* row, const F& body) {
  using V = Pack<T>;
  const V zero(T(0));
  for (int64_t n = w.num_meetings; n > 0;) {
    const int32_t place = w.meetings[n - 1].place;
    const Disc<T>& disc = w.points[place];
    const T inverse = w.inverse[place];
    if (place >= 4) fetch_gradients(s, w.points[place - 4].point);
    V gx(zero), gy(zero), gq(zero);
    w.channels.begin_sum();
    for (; n > 0 && w.meetings[n - 1].place == place; --n) {
      const Meeting<T>& m = w.meetings[n - 1];
      const int line = m.first / point_tile_width, column = m.first % point_tile_width;
      const V dx = V(disc.x) - V::load(scene.px.data() + tile.x0 + column);
      const V dy(disc.y - scene.py[tile.y0 + line]);
      const V q = (dx * dx + dy * dy) * V(inverse), behind = w.behind.load(m.first);
      const Opacity<V> at = opacity(s, q);
      const V scale = s.mode == Compositing::norm_weighted ? w.carried.load(m.first) : m.before;
      const V grad = select(m.hit, scale * (m.g - behind) * at.slope, zero);
      if (s.mode == Compositing::alpha) w.behind.store(m.first, m.hit, behind_next<T>(at.alpha, m.g, behind));
      gx += grad * dx, gy += grad * dy, gq += select(m.hit, grad * q, zero);
      if (s.grad_features) w.channels.add_to_sum(m.first, m.hit, scale * at.alpha);
    }
    row[0] = T(2) * inverse * sum(gx), row[1] = T(2) * inverse * sum(gy), row[2] = -inverse * sum(gq);
    if (s.grad_features) w.channels.end_sum(row + 3);
    body(disc.point, row);
  }
}

template <class T, class Channels>
void render_backward(const PointsInput<T>& in, const PointImage<T>& s) {
  const TiledPoints<T> scene(in, tile_height_for(s.C));
  const int64_t size = 3 + (s.grad_features ? s.C : 0);
  const bool disjoint = are_disjoint(in);
  std::vector<Worker<T, Channels>> workers(num_threads(), Worker<T, Channels>(s.C));
  std::vector<TileSums<T>> shared(scene.num_tiles());
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int worker) {
        if (scene.offsets[index] == scene.offsets[index + 1]) return;
        Worker<T, Channels>& w = workers[worker];
        const Extent tile = extent_of(scene, index);
        w.fetch(scene, tile, index, s);
        note_meetings(scene, tile, s, w);
        std::vector<T> sums(size);
        differentiate(scene, tile, s, w, sums.data(), [&](int32_t p, const T* row) {
          const PixelBox& box = scene.boxes[p];
          const bool inside =
              box.i0 >= tile.x0 && box.i1 < tile.x0 + tile.width && box.j0 >= tile.y0 && box.j1 < tile.y0 + tile.height;
          if (inside && disjoint) return add_to_point(s, p, row);
          shared[index].points.push_back(p);
          shared[index].rows.insert(shared[index].rows.end(), row, row + size);
        });
      },
      (8 + 2 * s.C) * scene.num_pairs());
  int64_t total = 0;
  for (const auto& t : shared) total += static_cast<int64_t>(t.points.size());
  for_each_row_range(in.P, total * size, [&](int64_t begin, int64_t end) {
    for (const auto& t : shared)
      for (size_t i = 0; i < t.points.size(); ++i)
        if (t.points[i] >= begin && t.points[i] < end) add_to_point(s, t.points[i], t.rows.data() + i * size);
  });
}

}  // namespace

template <class T>
void render_points_cpu(const PointsInput<T>& in, const PointImage<T>& s) {
  if (s.C == 3) return render<T, Planes<T, 3>>(in, s);
  Planes<T>::fits(s.C) ? render<T, Planes<T>>(in, s) : render<T, Rows<T>>(in, s);
}

template <class T>
void render_points_backward_cpu(const PointsInput<T>& in, const PointImage<T>& s) {
  if (s.C == 3) return render_backward<T, Planes<T, 3>>(in, s);
  Planes<T>::fits(s.C) ? render_backward<T, Planes<T>>(in, s) : render_backward<T, Rows<T>>(in, s);
}

template void render_points_cpu(const PointsInput<float>&, const PointImage<float>&);
template void render_points_cpu(const PointsInput<double>&, const PointImage<double>&);
template void render_points_backward_cpu(const PointsInput<float>&, const PointImage<float>&);
template void render_points_backward_cpu(const PointsInput<double>&, const PointImage<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
