// How the CUDA rasterisers divide an image into bins, for tests.
#include "core/op.h"
#include "raster/cuda.h"

namespace recon {

namespace {

struct StoreBins {
  CudaBins bins;
  int64_t* out;
  RECON_HD void operator()(int64_t) const {
    out[0] = bins.side, out[1] = bins.across, out[2] = bins.down, out[3] = bins.groups, out[4] = bins.size() * 4;
  }
};

}  // namespace

void cuda_bins(int64_t F, int64_t tiles_x, int64_t tiles_y, Tensor out) {
  parallel_for(out.device, 1, StoreBins{CudaBins(F, tiles_x, tiles_y), out.packed<int64_t>()});
}
RECON_OP(cuda_bins, "F: int>=0, tiles_x: int>0, tiles_y: int>0, out: i64 S");

}  // namespace recon
