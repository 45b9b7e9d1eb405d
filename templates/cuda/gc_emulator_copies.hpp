// Asynchronous copies: gc_cp_async with its groups, mbarriers, and tensor copies.
//
// A copy poisons its destination when it is issued and lands later: at a moment drawn at random, at
// the latest when somebody waits for it. Touching the destination in between is a race.
#pragma once

#include "gc_emulator_memory.hpp"

namespace {

// ---- gc_cp_async -------------------------------------------------------------------------------

void land(Copy &copy) {
  if (copy.landed) return;
  if (copy.valid)
    memcpy(copy.to, copy.from, copy.bytes);
  else
    memset(copy.to, 0, copy.bytes);
  copy.landed = true;
}

// The copy is complete for the thread that waited; its bytes now count as written by it.
void settle(Copy &copy) {
  const Fiber &self = *block.current;
  land(copy);
  for (uint32_t offset = copy.offset; offset < copy.offset + copy.bytes; offset += GRANULE) {
    Cell &write = memory.granules[offset / GRANULE].write;
    if (write.slot == self.slot() && write.clock == UNDER_WAY) write.clock = self.clock();
  }
}

void land_one_at_random(Fiber &self) {
  if (self.groups.empty() || random_below(4)) return;
  CopyGroup &group = self.groups[random_below(self.groups.size())];
  if (!group.empty()) land(group[random_below(group.size())]);
}

void wait_for_copies(Fiber &self, size_t pending) {
  while (self.groups.size() > pending) {
    for (Copy &copy : self.groups.front()) settle(copy);
    self.groups.erase(self.groups.begin());
  }
}

// ---- mbarriers ---------------------------------------------------------------------------------

struct Waiter {
  Fiber *fiber;
  unsigned parity;
};

struct Mbarrier {
  uint32_t offset;
  unsigned slot, arrivals, pending, phase;
  int64_t bytes;  // of tensor copies, still to come in this phase
  unsigned owner_slot;
  uint32_t owner_clock;  // when it was initialised
  bool published;        // to the other blocks of the cluster
  Clocks joining, completed;
  std::vector<Waiter> waiting;

  // When the tensor copies of the current phase happen, in the barrier's own slot.
  uint32_t phase_clock() const { return block.base + phase + 1; }
};

struct TensorCopy {
  gc_uint64 map[16];
  uint32_t offset;
  unsigned rank;  // of the block to whose shared memory it goes
  int line;
  size_t barrier;
  int64_t start[5];
};

std::vector<Mbarrier> mbarriers;
std::vector<TensorCopy> tensor_copies;  // under way

// The mbarrier at this place of the shared memory of the block with this rank.
Mbarrier &find_mbarrier(const char *what, const gc_mbarrier *barrier, unsigned rank, int line) {
  const unsigned own = block.current->rank;
  const uint32_t offset =
      expect_shared(what, barrier, sizeof *barrier, alignof(gc_mbarrier), line) +
      (rank - own) * memory.stride;
  for (Mbarrier &known : mbarriers) {
    if (known.offset != offset) continue;
    if (block.current->seen[known.owner_slot] < known.owner_clock)
      fail(line, nullptr,
           "race: %s uses an mbarrier, and there is no barrier after its "
           "gc_mbarrier_init by thread %u",
           what, known.owner_slot - FIRST_THREAD_SLOT);
    if (rank != own && !known.published)
      fail(line, nullptr,
           "%s uses an mbarrier of another block: there is no gc_fence_mbarrier_init after its "
           "gc_mbarrier_init",
           what);
    return known;
  }
  fail(line, nullptr, "%s: gc_mbarrier_init has not been called for this mbarrier, at %s", what,
       shared_name(offset).c_str());
}

Mbarrier &find_mbarrier(const char *what, const gc_mbarrier *barrier, int line) {
  return find_mbarrier(what, barrier, block.current->rank, line);
}

// The block with this rank, which a thread reaches from another one.
Member &find_member(const char *what, unsigned rank, int line) {
  if (rank >= block.members.size())
    fail(line, nullptr, "%s for block %u of a cluster of %zu", what, rank, block.members.size());
  Member &member = block.members[rank];
  if (!member.live)
    fail(line, nullptr, "%s reaches block %u of the cluster, which has ended: gc_cluster_sync is "
         "missing", what, rank);
  return member;
}

// A block ends: what others did to its shared memory must have happened before, by a barrier.
void check_reached(const Fiber &last) {
  const Clocks &reached = block.members[last.rank].reached;
  Clocks seen(block.slots);
  for (const Fiber &fiber : block.fibers)
    if (fiber.rank == last.rank) join(seen.data(), fiber.seen);
  for (unsigned slot = 0; slot < block.slots; slot++)
    if (reached[slot] > seen[slot])
      fail(0, nullptr,
           "block %u of the cluster ends, while thread %u of another may still arrive at its "
           "mbarriers: gc_cluster_sync is missing",
           last.rank, (slot - FIRST_THREAD_SLOT) % block.threads);
}

void acquire(Fiber &fiber, const Mbarrier &barrier) { join(fiber.seen, barrier.completed.data()); }

void end_phase_if_complete(Mbarrier &barrier) {
  if (barrier.pending || barrier.bytes) return;
  join(barrier.completed.data(), barrier.joining.data());
  barrier.completed[barrier.slot] = barrier.phase_clock();
  barrier.phase++;
  barrier.pending = barrier.arrivals;
  std::vector<Waiter> still;
  for (const Waiter &waiter : barrier.waiting) {
    if ((barrier.phase & 1) == waiter.parity) {
      still.push_back(waiter);
      continue;
    }
    acquire(*waiter.fiber, barrier);
    wake(*waiter.fiber);
  }
  barrier.waiting.swap(still);
}

// ---- Tensor copies -----------------------------------------------------------------------------

// What the driver writes into the 128 bytes of a tensor map; emulator_tensor_map.py does the same.
struct TensorMap {
  uint64_t base;
  uint32_t extent[5], box[5];  // in elements, innermost first
  uint64_t stride[5];          // in bytes; of the innermost dimension it is the element
  uint8_t rank, element, swizzle, unused;
  uint32_t magic;
};
static_assert(sizeof(TensorMap) <= sizeof(gc_tensor_map), "it does not fit");
constexpr uint32_t TENSOR_MAP_MAGIC = 0x70616D67;
constexpr uint32_t CHUNK = 16;  // bytes that a swizzle keeps together

TensorMap decode(const void *map) {
  TensorMap decoded;
  memcpy(&decoded, map, sizeof decoded);
  return decoded;
}

uint32_t box_bytes(const TensorMap &map) {
  uint32_t bytes = map.element;
  for (int axis = 0; axis < map.rank; axis++) bytes *= map.box[axis];
  return bytes;
}

uint32_t swizzled(uint32_t offset, unsigned bytes) {
  const uint32_t mask = bytes ? bytes / 16 - 1 : 0;
  return offset ^ (offset >> 7 & mask) << 4;
}

// Calls work(address of the row's first element, elements below the tensor's start, elements
// inside) for each innermost row of the box, in the order in which they lie in shared memory;
// `inside` is 0 for a row that lies outside.
template <class Work>
void for_each_row(const TensorMap &map, const int64_t *start, Work work) {
  uint32_t rows = 1;
  for (int axis = 1; axis < map.rank; axis++) rows *= map.box[axis];
  for (uint32_t row = 0; row < rows; row++) {
    bool inside = true;
    uint64_t address = map.base;
    for (uint32_t axis = 1, rest = row; axis < map.rank; rest /= map.box[axis++]) {
      const int64_t place = start[axis] + rest % map.box[axis];
      inside &= place >= 0 && place < map.extent[axis];
      address += (uint64_t)place * map.stride[axis];
    }
    const int64_t from = std::clamp<int64_t>(-start[0], 0, map.box[0]);
    const int64_t to = std::clamp<int64_t>(map.extent[0] - start[0], from, map.box[0]);
    address += (uint64_t)start[0] * map.element;
    work(row, address, (uint32_t)from, inside ? (uint32_t)(to - from) : 0u);
  }
}

void check_tensor_copy(const TensorMap &map, const TensorCopy &copy, int line) {
  for_each_row(map, copy.start, [&](uint32_t, uint64_t address, uint32_t from, uint32_t inside) {
    const uint8_t *first =
        reinterpret_cast<const uint8_t *>(address + (uint64_t)from * map.element);
    if (inside) touch_global(first, (uint64_t)inside * map.element, false, line, nullptr);
  });
}

void land(const TensorCopy &copy) {
  if (!block.members[copy.rank].live)
    return report_block(copy.line,
                        "a tensor copy reaches block %u of the cluster, which has ended: "
                        "gc_cluster_sync is missing",
                        copy.rank);
  const TensorMap map = decode(copy.map);
  const uint32_t row_bytes = map.box[0] * map.element;
  std::vector<uint8_t> line(row_bytes);
  for_each_row(
      map, copy.start, [&](uint32_t row, uint64_t address, uint32_t from, uint32_t inside) {
        const uint32_t skip = from * map.element;
        std::fill(line.begin(), line.end(), 0);
        if (inside)
          memcpy(&line[skip], reinterpret_cast<uint8_t *>(address) + skip, inside * map.element);
        for (uint32_t chunk = 0; chunk < row_bytes; chunk += CHUNK)
          memcpy(shared_byte(swizzled(copy.offset + row * row_bytes + chunk, map.swizzle)),
                 &line[chunk], CHUNK);
      });
  Mbarrier &barrier = mbarriers[copy.barrier];
  barrier.bytes -= box_bytes(map);
  end_phase_if_complete(barrier);
}

bool land_tensor_copy_at_random() {
  if (tensor_copies.empty()) return false;
  const size_t chosen = random_below(tensor_copies.size());
  const TensorCopy copy = tensor_copies[chosen];
  tensor_copies.erase(tensor_copies.begin() + chosen);
  land(copy);
  return true;
}

}  // namespace

extern "C" {

void gc_emulated_copy(void *shared, const void *global, unsigned bytes, bool valid, int line) {
  Fiber &self = *block.current;
  const uint32_t offset = expect_shared("gc_cp_async", shared, bytes, bytes, line);
  if (valid) {
    check_aligned(global, bytes, line, nullptr);
    touch_global(static_cast<const uint8_t *>(global), bytes, false, line, nullptr);
  }
  touch_shared(offset, bytes, true, Actor{&self, self.slot(), UNDER_WAY, false}, line, nullptr);
  memset(shared, POISON, bytes);
  self.open.push_back(Copy{static_cast<uint8_t *>(shared), static_cast<const uint8_t *>(global),
                           offset, bytes, valid, false});
  land_one_at_random(self);
}

void gc_emulated_copy_commit() {
  block.current->groups.push_back(std::move(block.current->open));
  block.current->open.clear();
}

void gc_emulated_copy_wait(unsigned pending) { wait_for_copies(*block.current, pending); }

void gc_emulated_mbarrier_init(gc_mbarrier *barrier, unsigned arrivals, int line) {
  Fiber &self = *block.current;
  const uint32_t offset =
      expect_shared("gc_mbarrier_init", barrier, sizeof *barrier, alignof(gc_mbarrier), line);
  if (mbarriers.size() == MBARRIERS)
    fail(line, nullptr, "more than %u mbarriers in a block", MBARRIERS);
  for (const Mbarrier &known : mbarriers)
    if (known.offset == offset) fail(line, nullptr, "this mbarrier is initialised already");
  if (!arrivals) fail(line, nullptr, "gc_mbarrier_init for 0 arrivals");
  const Clocks nothing(block.slots);
  const unsigned slot = (unsigned)mbarriers.size();
  mbarriers.push_back(Mbarrier{
      offset, slot, arrivals, arrivals, 0, 0, self.slot(), self.clock(), false, nothing, nothing,
      {}});
  self.tick();
}

void gc_emulated_fence_mbarrier_init() {
  for (Mbarrier &known : mbarriers)
    if (known.owner_slot == block.current->slot()) known.published = true;
}

void gc_emulated_mbarrier_arrive(gc_mbarrier *barrier, unsigned bytes, unsigned rank, int line) {
  Fiber &self = *block.current;
  if (rank == OWN_BLOCK) rank = self.rank;
  Member &member = find_member("gc_mbarrier_arrive_at", rank, line);
  Mbarrier &known = find_mbarrier("gc_mbarrier_arrive", barrier, rank, line);
  if (rank != self.rank) member.reached[self.slot()] = self.clock();
  if (!known.pending)
    fail(line, nullptr, "one arrival more at an mbarrier than the %u a phase it was made for",
         known.arrivals);
  join(known.joining.data(), self.seen);
  self.tick();
  known.bytes += bytes;
  known.pending--;
  end_phase_if_complete(known);
}

void gc_emulated_mbarrier_wait(gc_mbarrier *barrier, unsigned parity, int line) {
  Mbarrier &known = find_mbarrier("gc_mbarrier_wait", barrier, line);
  if (parity > 1) fail(line, nullptr, "gc_mbarrier_wait for parity %u", parity);
  if ((known.phase & 1) != parity) return acquire(*block.current, known);
  known.waiting.push_back(Waiter{block.current, parity});
  suspend(parity ? "gc_mbarrier_wait, parity 1" : "gc_mbarrier_wait, parity 0", line);
}

void gc_emulated_fence_async() {
  Fiber &self = *block.current;
  self.fenced.assign(self.seen, self.seen + block.slots);
  self.tick();
}

void gc_emulated_tensor_load(void *shared, const gc_tensor_map *map, gc_mbarrier *barrier,
                             const int *coordinates, unsigned rank, unsigned blocks, int line) {
  Fiber &self = *block.current;
  if (!blocks) fail(line, nullptr, "gc_tma_load_multicast for no block");
  const TensorMap decoded = decode(map);
  if (decoded.magic != TENSOR_MAP_MAGIC) fail(line, nullptr, "gc_tma_load: this is no tensor map");
  if (decoded.rank != rank)
    fail(line, nullptr, "gc_tma_load_%ud with a tensor map of rank %u", rank, decoded.rank);
  const uint32_t bytes = box_bytes(decoded);
  const unsigned alignment = decoded.swizzle ? 8u * decoded.swizzle : 128u;
  const uint32_t offset = expect_shared("gc_tma_load", shared, bytes, alignment, line);
  for (unsigned to = 0; blocks >> to; to++) {
    if (!(blocks >> to & 1)) continue;
    find_member("gc_tma_load", to, line);
    Mbarrier &known = find_mbarrier("gc_tma_load", barrier, to, line);
    const Cell initialised{known.owner_clock, (uint16_t)known.owner_slot, 0};
    if (!is_fenced(self_actor(), initialised))
      fail(line, nullptr, "gc_tma_load: there is no gc_fence_async after gc_mbarrier_init");
    const uint32_t there = offset + (to - self.rank) * memory.stride;
    TensorCopy copy{{}, there, to, line, known.slot, {}};
    memcpy(copy.map, map, sizeof copy.map);
    std::copy(coordinates, coordinates + rank, copy.start);
    check_tensor_copy(decoded, copy, line);
    touch_shared(there, bytes, true, Actor{&self, known.slot, known.phase_clock(), true}, line,
                 nullptr);
    memset(shared_byte(there), POISON, bytes);
    tensor_copies.push_back(copy);
  }
}

}  // extern "C"
