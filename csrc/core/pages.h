#pragma once
// Memory for large CPU outputs that comes back warm. A fresh page costs more to fault in than a kernel needs to fill
// it, and malloc returns large blocks to the system as soon as they are free; these are kept for the next call instead.
#include <cstdint>

namespace recon {

// At least `bytes` of memory in huge pages where the system has them. What it holds is anything.
void* acquire_pages(int64_t bytes);

// Gives memory back, with the size it was asked for; what exceeds the limit goes back to the system.
void release_pages(void* data, int64_t bytes);

// How much released memory is kept; lowering it frees what is over at once.
void set_page_limit(int64_t bytes);
int64_t kept_page_bytes();

}  // namespace recon
