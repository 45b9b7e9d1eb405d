// Runs a kernel on a CPU, one block at a time, or the blocks of one cluster together, one fiber a
// thread, in an order drawn at random.
//
// It is compiled once, linked with each kernel, and driven by gc_emulator_launch. The kernel itself
// is compiled with the thread sanitizer's instrumentation, but without its library: the functions
// that this instrumentation calls stand at the end of this file.
#include "gc_emulator_products.hpp"

namespace {

// ---- Threads of a block ------------------------------------------------------------------------

void run_thread() {
  block.launch->call(block.launch->arguments);
  Fiber &self = *block.current;
  if (!self.open.empty()) gc_emulated_copy_commit();
  wait_for_copies(self, 0);
  if (!--block.members[self.rank].live && block.members.size() > 1) check_reached(self);
  self.finished = true;
  block.live--;
  for (;;) switch_context(self.context, block.scheduler);
}

gc_index index_of(unsigned number, const gc_index &size) {
  return gc_index{number % size.x, number / size.x % size.y, number / size.x / size.y};
}

void start_fiber(unsigned number) {
  Fiber &fiber = block.fibers[number];
  fiber = Fiber{};
  fiber.number = number;
  fiber.rank = number / block.threads;
  fiber.index = index_of(number % block.threads, block.launch->block);
  fiber.stack = block.stacks + number * (STACK_BYTES + PAGE_BYTES) + PAGE_BYTES;
  fiber.seen = &block.seen[(size_t)number * block.slots];
  prepare(fiber.context, fiber.stack, run_thread);
  fiber.tick();
  block.ready.push_back(&fiber);
}

// The latest time of any slot: what others have seen of it is not later than its own.
uint32_t latest_clock() {
  uint32_t latest = block.base;
  for (const Fiber &fiber : block.fibers)
    if (fiber.seen) latest = std::max(latest, fiber.clock());
  for (const Mbarrier &barrier : mbarriers) latest = std::max(latest, barrier.phase_clock());
  for (const Warpgroup &group : warpgroups)
    latest = std::max(latest, block.base + group.committed + 1);
  return latest;
}

// How many things of this size one block has, of which the last may be incomplete.
unsigned parts(unsigned size) { return (block.threads + size - 1) / size; }

void start_member(unsigned rank, const gc_index &first) {
  Member &member = block.members[rank];
  member.index = gc_index{first.x * (unsigned)block.members.size() + rank, first.y, first.z};
  member.live = block.threads;
  member.reached.assign(block.slots, 0);
  member.free_registers = 0;
}

void start_cluster(unsigned number) {
  const unsigned together = (unsigned)block.members.size(), all = together * block.threads;
  gc_index clusters = block.launch->grid;
  clusters.x /= together;
  block.base = latest_clock();
  for (unsigned rank = 0; rank < together; rank++) start_member(rank, index_of(number, clusters));
  block.live = all;
  block.current = nullptr;
  block.ready.clear();
  const Barrier nobody{0, 0, 0, Clocks(block.slots), {}};
  block.barriers.assign(NAMED_BARRIERS * together, nobody);
  block.cluster_barrier = nobody;
  block.warps.assign(parts(WARP) * together, Meeting{});
  block.warpgroups.assign(parts(WARPGROUP) * together, Meeting{});
  std::fill(block.seen.begin(), block.seen.end(), block.base);
  mbarriers.clear();
  tensor_copies.clear();
  const unsigned registers = registers_at_launch(block.threads);
  warpgroups.assign(block.warpgroups.size(), Warpgroup{0, 0, 0, {}, registers, registers, {}});
  for (size_t group = 0; group < warpgroups.size(); group++)
    warpgroups[group].rank = (unsigned)group / parts(WARPGROUP);
  poison_shared();
  for (unsigned thread = 0; thread < all; thread++) start_fiber(thread);
}

void resume_one_at_random() {
  const size_t chosen = random_below(block.ready.size());
  block.current = block.ready[chosen];
  block.ready[chosen] = block.ready.back();
  block.ready.pop_back();
  switch_context(block.scheduler, block.current->context);
  block.current = nullptr;
}

void run_cluster() {
  while (block.live && !block.failed) {
    if (!block.ready.empty()) {
      if (!random_below(8)) land_tensor_copy_at_random();
      resume_one_at_random();
    } else if (!land_tensor_copy_at_random()) {
      report_deadlock();
    }
  }
}

// ---- A launch ----------------------------------------------------------------------------------

bool open_stacks() {
  const size_t each = STACK_BYTES + PAGE_BYTES, all = block.fibers.size();
  void *stacks = mmap(nullptr, all * each, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) {
    report_block(0, "there is no memory for the stacks of %zu threads", all);
    return false;
  }
  block.stacks = static_cast<uint8_t *>(stacks);
  for (size_t thread = 0; thread < all; thread++)
    mprotect(block.stacks + thread * each, PAGE_BYTES, PROT_NONE);  // below each stack
  return true;
}

bool open_launch(const Launch *launch, Failure *failure) {
  const uint64_t threads = (uint64_t)launch->block.x * launch->block.y * launch->block.z;
  *failure = Failure{};
  block = Block{};
  block.launch = launch;
  block.failure = failure;
  block.random_state = launch->seed;
  block.threads = (unsigned)threads;
  const uint64_t together = threads * launch->cluster;
  if (!threads || threads > MAX_THREADS) {
    report_block(0, "%llu threads in a block, it can be 1 to %u", (unsigned long long)threads,
                 MAX_THREADS);
    return false;
  }
  if (launch->grid.x % launch->cluster || together > MAX_TOGETHER) {
    report_block(0, "a grid of %u blocks along x, of %u threads each, for clusters of %u",
                 launch->grid.x, block.threads, launch->cluster);
    return false;
  }
  block.slots = FIRST_THREAD_SLOT + (unsigned)together;
  block.members.resize(launch->cluster);
  if (!open_memory()) return false;
  block.fibers.resize(together);
  block.seen.assign((size_t)block.slots * together, 0);
  return open_stacks();
}

void close_launch() {
  if (block.stacks) munmap(block.stacks, block.fibers.size() * (STACK_BYTES + PAGE_BYTES));
  close_memory();
  mbarriers.clear();
  warpgroups.clear();
  block = Block{};
}

void run_clusters() {
  const gc_index &grid = block.launch->grid;
  std::vector<unsigned> order((size_t)grid.x / block.members.size() * grid.y * grid.z);
  for (size_t place = 0; place < order.size(); place++) {
    const size_t other = random_below(place + 1);
    order[place] = order[other];
    order[other] = (unsigned)place;
  }
  for (const unsigned number : order) {
    start_cluster(number);
    run_cluster();
    if (block.failed) return;
  }
}

}  // namespace

// Runs one launch; 0 if all went well, else 1 and what happened.
extern "C" __attribute__((visibility("default"))) int gc_emulator_launch(const Launch *launch,
                                                                         Failure *failure) {
  if (open_launch(launch, failure)) run_clusters();
  const bool failed = block.failed;
  close_launch();
  return failed;
}

// ---- What gc_emulator.hpp declares and no other file defines ------------------------------------

extern "C" {

gc_index gc_emulated_thread_index() { return block.current->index; }
gc_index gc_emulated_block_index() { return block.members[block.current->rank].index; }
gc_index gc_emulated_block_size() { return block.launch->block; }
gc_index gc_emulated_grid_size() { return block.launch->grid; }
unsigned char *gc_emulated_dynamic_shared() {
  return memory.dynamic + block.current->rank * memory.stride;
}
unsigned gc_emulated_cluster_rank() { return block.current->rank; }

uint32_t gc_emulated_shared_address(const void *shared, int line) {
  const uint32_t window = block.current->rank * memory.stride;
  return expect_shared("gc_shared_address", shared, 1, 1, line) - window;
}

void gc_emulated_cluster_sync(int line) {
  come_to(block.cluster_barrier, "gc_cluster_sync", (unsigned)block.fibers.size(), true, line);
}

void gc_emulated_barrier(unsigned number, unsigned threads, bool waits, int line) {
  if (number >= NAMED_BARRIERS)
    fail(line, nullptr, "there is no barrier %u, only 0 to %u", number, NAMED_BARRIERS - 1);
  if (number && (!threads || threads % WARP || threads > block.threads))
    fail(line, nullptr, "barrier %u for %u threads, in a block of %u", number, threads,
         block.threads);
  come_to_barrier(number, number ? threads : block.threads, waits, line);
}

void gc_emulated_syncwarp(int line) {
  meet(block.warps, WARP, "gc_syncwarp", line, nullptr, [](void **, Fiber *fibers) {
    Clocks all(block.slots);
    for (unsigned lane = 0; lane < WARP; lane++) join(all.data(), fibers[lane].seen);
    for (unsigned lane = 0; lane < WARP; lane++) {
      join(fibers[lane].seen, all.data());
      fibers[lane].tick();
    }
  });
}

uint32_t gc_emulated_shuffle(const char *what, uint32_t value, int lane, int line) {
  struct Exchange {
    uint32_t value, result;
    int lane;
  } own{value, 0, lane};
  meet(block.warps, WARP, what, line, &own, [](void **arguments, Fiber *) {
    for (unsigned lane = 0; lane < WARP; lane++) {
      Exchange &to = *static_cast<Exchange *>(arguments[lane]);
      to.result = static_cast<Exchange *>(arguments[to.lane])->value;
    }
  });
  return own.result;
}

void gc_emulated_atomic_add(float *address, float value, int line) {
  check_aligned(address, sizeof *address, line, nullptr);
  const Place place = find_shared(address);
  if (!place.found) {
    touch_global(reinterpret_cast<uint8_t *>(address), sizeof *address, false, line, nullptr);
  } else if (sizeof *address > place.room) {
    fail_outside(address, sizeof *address, true, line, nullptr);
  }
  *address += value;
}

// ---- What the instrumentation of the thread sanitizer calls -------------------------------------

#pragma GCC visibility push(hidden)
#define GC_CODE (static_cast<const char *>(__builtin_return_address(0)) - 1)
#define GC_HOOK(name, bytes, writes, aligned) \
  void __tsan_##name(void *address) { touch(address, bytes, writes, aligned, 0, GC_CODE); }
#define GC_HOOKS(bytes)                               \
  GC_HOOK(read##bytes, bytes, false, true)            \
  GC_HOOK(write##bytes, bytes, true, true)            \
  GC_HOOK(unaligned_read##bytes, bytes, false, false) \
  GC_HOOK(unaligned_write##bytes, bytes, true, false)
GC_HOOKS(1)
GC_HOOKS(2)
GC_HOOKS(4)
GC_HOOKS(8)
GC_HOOKS(16)

void __tsan_read_range(void *address, size_t bytes) {
  touch(address, bytes, false, false, 0, GC_CODE);
}
void __tsan_write_range(void *address, size_t bytes) {
  touch(address, bytes, true, false, 0, GC_CODE);
}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}

// ---- What the instrumentation of the undefined behaviour sanitizer calls ------------------------

struct SourcePlace {
  const char *file;
  uint32_t line, column;
};

void __ubsan_handle_type_mismatch_v1(const SourcePlace *place, uintptr_t address) {
  if (!block.current) return;
  const uint8_t alignment = reinterpret_cast<const uint8_t *>(place + 1)[sizeof(void *)];
  fail((int)place->line, nullptr,
       "misaligned: a type of %u bytes at an address that is a multiple "
       "of only %u",
       1u << alignment, 1u << __builtin_ctzll(address));
}

void __ubsan_handle_out_of_bounds(const SourcePlace *place, uintptr_t index) {
  if (!block.current) return;
  fail((int)place->line, nullptr, "out of bounds: index %lld of an array", (long long)index);
}

void __ubsan_handle_divrem_overflow(const SourcePlace *place, uintptr_t, uintptr_t) {
  if (!block.current) return;
  fail((int)place->line, nullptr, "an integer is divided by zero");
}
#pragma GCC visibility pop

}  // extern "C"
