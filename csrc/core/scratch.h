#pragma once
// Temporary memory: on a GPU from torch's allocator, which recycles it in stream order, on a CPU the engine's own.
#include <cstdint>

#include "core/tensor.h"

namespace recon {

// How the binding lends memory to the engine: `acquire` returns an opaque owner and sets *data.
struct Allocator {
  void* (*acquire)(int64_t bytes, const Device& device, void** data);
  void (*release)(void* owner);
};

extern Allocator allocator;

// n uninitialised elements of T on `device` until the end of the scope. A kernel launched on the device's stream in the
// meantime may still be using them then: the allocator hands them out again only to later work of the same stream.
template <class T>
class Scratch {
 public:
  Scratch(int64_t n, const Device& device) : device_(device) { acquire(n); }
  ~Scratch() { allocator.release(owner_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Forgets the elements and holds n new ones.
  void resize(int64_t n) {
    allocator.release(owner_);
    acquire(n);
  }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  void acquire(int64_t n) {
    void* data = nullptr;
    owner_ = allocator.acquire(n * static_cast<int64_t>(sizeof(T)), device_, &data);
    data_ = static_cast<T*>(data), size_ = n;
  }

  Device device_;
  T* data_ = nullptr;
  void* owner_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace recon
