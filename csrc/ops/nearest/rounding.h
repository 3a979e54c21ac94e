#pragma once
// Products and sums that round separately on a GPU too, where they would be contracted: as on a CPU, so that both
// devices give the same distances. For .cu files.
#ifdef __CUDACC__
namespace recon {

__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double add(double a, double b) { return __dadd_rn(a, b); }
__device__ inline float add_square(float sum, float v) { return __fadd_rn(sum, __fmul_rn(v, v)); }
__device__ inline double add_square(double sum, double v) { return __dadd_rn(sum, __dmul_rn(v, v)); }

}  // namespace recon
#endif
