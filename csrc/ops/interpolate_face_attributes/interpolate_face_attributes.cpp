// interpolate_face_attributes: what the vertices of faces carry, at the pixels that show the faces.
//
//   value = sum_i bary_i attribute_i over the three vertices of the slot's face; 0 where the slot is empty
//   d bary_i = grad_value . attribute_i      d attribute_i = sum of bary_i grad_value over the slots that show the face
//
// What empty slots hold is never read. An index beyond the faces is an error on the CPU; on a GPU, where looking at
// indices first would mean waiting for the device, its value is NaN and it has no gradient.
#include "core/op.h"
#include "ops/interpolate_face_attributes/kernels.h"

namespace recon {

namespace {

template <class T>
FaceInterpolation<T> arguments(const Tensor& pix_to_face, const Tensor& bary, const Tensor& attributes) {
  const int64_t* shape = pix_to_face.shape;
  return {pix_to_face.packed<int64_t>(),
          bary.packed<T>(),
          attributes.packed<T>(),
          pix_to_face.numel(),
          attributes.shape[0],
          attributes.shape[2],
          shape[0],
          shape[1],
          shape[2],
          shape[3]};
}

}  // namespace

void interpolate_face_attributes(Tensor pix_to_face, Tensor bary, Tensor attributes, Tensor values) {
  dispatch_float(bary.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = arguments<T>(pix_to_face, bary, attributes);
    if (!bary.device.cuda) return RECON_SIMD_CALL(interpolate_face_attributes_cpu, in, values.packed<T>());
#ifdef RECON_CUDA
    interpolate_face_attributes_cuda(in, values.packed<T>(), bary.device);
#endif
  });
}
RECON_OP(interpolate_face_attributes,
         "pix_to_face: i64 N H W K, barycentric_coords: N H W K 3, face_attributes: F 3 D, values: N H W K D");

void interpolate_face_attributes_backward(Tensor pix_to_face, Tensor bary, Tensor attributes, std::optional<Tensor>,
                                          Tensor grad_values, std::optional<Tensor> grad_bary,
                                          std::optional<Tensor> grad_attributes) {
  dispatch_float(bary.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = arguments<T>(pix_to_face, bary, attributes);
    const FaceInterpolationGrads<T> grads = {grad_values.packed<T>(), grad_bary ? grad_bary->packed<T>() : nullptr,
                                             grad_attributes ? grad_attributes->packed<T>() : nullptr};
    if (!bary.device.cuda) return RECON_SIMD_CALL(interpolate_face_attributes_backward_cpu, in, grads);
#ifdef RECON_CUDA
    interpolate_face_attributes_backward_cuda(in, grads, bary.device);
#endif
  });
}
RECON_OP(interpolate_face_attributes_backward,
         "pix_to_face: i64 N H W K, barycentric_coords: N H W K 3, face_attributes: F 3 D, values?: N H W K D, "
         "grad_values: N H W K D, grad_barycentric_coords?: N H W K 3, grad_face_attributes?: F 3 D");

}  // namespace recon
