#include "core/pages.h"

#include <sys/mman.h>

#include <deque>
#include <mutex>
#include <new>

#include "core/simd.h"

namespace recon {

namespace {

constexpr int64_t huge_page = int64_t{2} << 20;

struct Block {
  void* data;
  int64_t bytes;
};

std::mutex mutex;
std::deque<Block> kept;  // the oldest first
int64_t kept_bytes = 0, limit = int64_t{256} << 20;

int64_t rounded(int64_t bytes) { return (bytes + huge_page - 1) / huge_page * huge_page; }

void* map(int64_t bytes) {
  // Huge pages need aligned addresses: maps one page more and cuts off both ends.
  void* raw =
      mmap(nullptr, static_cast<size_t>(bytes + huge_page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  const auto begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (begin + huge_page - 1) / huge_page * huge_page, head = aligned - begin;
  if (head > 0) munmap(raw, head);
  munmap(reinterpret_cast<void*>(aligned + static_cast<uintptr_t>(bytes)), huge_page - head);
  void* data = reinterpret_cast<void*>(aligned);
  prefer_huge_pages(data, bytes);
  return data;
}

void free_down_to(int64_t most) {
  while (kept_bytes > most) {
    const Block block = kept.front();
    kept.pop_front(), kept_bytes -= block.bytes;
    munmap(block.data, static_cast<size_t>(block.bytes));
  }
}

}  // namespace

void* acquire_pages(int64_t bytes) {
  bytes = rounded(bytes);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    // The youngest first: it is the likeliest to be in a cache.
    for (auto block = kept.rbegin(); block != kept.rend(); ++block)
      if (block->bytes == bytes) {
        void* data = block->data;
        kept.erase(std::next(block).base()), kept_bytes -= bytes;
        return data;
      }
  }
  return map(bytes);
}

void release_pages(void* data, int64_t bytes) {
  bytes = rounded(bytes);
  const std::lock_guard<std::mutex> lock(mutex);
  kept.push_back({data, bytes}), kept_bytes += bytes;
  free_down_to(limit);
}

void set_page_limit(int64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  limit = bytes;
  free_down_to(limit);
}

int64_t kept_page_bytes() {
  const std::lock_guard<std::mutex> lock(mutex);
  return kept_bytes;
}

}  // namespace recon
