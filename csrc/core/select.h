#pragma once
// Branches that read the same for one number and for a register of numbers (Pack).
#include "core/tensor.h"

namespace recon {

RECON_HD bool any(bool m) { return m; }

// m ? a : b
RECON_HD float select(bool m, float a, float b) { return m ? a : b; }
RECON_HD double select(bool m, double a, double b) { return m ? a : b; }

// As std::max and std::min, also where an operand is NaN.
template <class V>
RECON_HD V maximum(V a, V b) {
  return select(a < b, b, a);
}
template <class V>
RECON_HD V minimum(V a, V b) {
  return select(b < a, b, a);
}

}  // namespace recon
