// Every load and store of a kernel is checked here: is the address one it was given, is it aligned,
// has somebody written what is read, and is there a barrier between two threads that share a byte?
#pragma once

#include <link.h>

#include "gc_emulator_threads.hpp"

extern "C" {
}

namespace {

constexpr uint8_t POISON = 0xFF;  // NaN as float, double, bf16 and half
constexpr uint32_t UNDER_WAY = UINT32_MAX;
constexpr unsigned GRANULE = 2, SHARED_LIMIT = 227 << 10, DYNAMIC_ALIGNMENT = 1024;

struct Cell {
  uint32_t clock;
  uint16_t slot, bytes;  // bytes: which of the granule, one bit each
};

// The last write of two bytes of shared memory and up to three reads that no write has followed.
struct Granule {
  Cell write, reads[3];
};

// On whose behalf memory is touched: what it has seen, and which slot and time stand for it.
struct Actor {
  const Fiber *fiber;
  unsigned slot;
  uint32_t clock;
  bool async;  // through the asynchronous proxy: wgmma and tensor copies
};

struct Memory {
  uint8_t *dynamic, *arrays, *constants, *constants_end;
  size_t static_bytes, dynamic_bytes;
  uint32_t dynamic_offset;  // static arrays come first in the window of shared addresses
  uint32_t stride;          // from a block's dynamic shared memory to that of the next in a cluster
  std::vector<Granule> granules;
  const Region *last_region;
};

Memory memory;

// Where something is in shared memory.
struct Place {
  bool found;
  uint32_t offset, room;  // room: bytes up to the end
  unsigned rank;          // of the block that it belongs to
};

Actor self_actor() {
  return Actor{block.current, block.current->slot(), block.current->clock(), false};
}

Place find_shared(const void *address) {
  const uint8_t *byte = static_cast<const uint8_t *>(address);
  const size_t dynamic = byte - memory.dynamic, fixed = byte - memory.arrays;
  const size_t rank = dynamic / memory.stride, own = dynamic % memory.stride;
  if (rank < block.members.size() && own < memory.dynamic_bytes)
    return Place{true, memory.dynamic_offset + (uint32_t)dynamic,
                 (uint32_t)(memory.dynamic_bytes - own), (unsigned)rank};
  if (fixed < memory.static_bytes)
    return Place{true, (uint32_t)fixed, (uint32_t)(memory.static_bytes - fixed), 0};
  return Place{false, 0, 0, 0};
}

uint8_t *shared_byte(uint32_t offset) {
  if (offset >= memory.dynamic_offset) return memory.dynamic + (offset - memory.dynamic_offset);
  return memory.arrays + offset;
}

std::string shared_name(uint32_t offset) {
  if (offset < memory.dynamic_offset)
    return "byte " + std::to_string(offset) + " of the __shared__ arrays";
  const uint32_t dynamic = offset - memory.dynamic_offset;
  std::string name = "byte " + std::to_string(dynamic % memory.stride);
  name += " of the dynamic shared memory";
  if (block.members.size() > 1)
    name += " of block " + std::to_string(dynamic / memory.stride) + " of the cluster";
  return name;
}

// Blocks of a cluster reach each other's shared memory through wrappers only, and `__shared__`
// arrays exist once here.
void check_own(const Place &place, int line, const void *code) {
  if (block.members.size() == 1) return;
  if (place.offset < memory.dynamic_offset)
    fail(line, code, "uses a __shared__ array, but blocks of a cluster have dynamic memory only");
  if (place.rank != block.current->rank)
    fail(line, code, "reaches %s, which belongs to another block", shared_name(place.offset).c_str());
}

// ---- Races -------------------------------------------------------------------------------------

bool has_seen(const Actor &actor, const Cell &cell) {
  if (cell.clock <= block.base) return true;
  return cell.clock != UNDER_WAY && cell.clock <= actor.fiber->seen[cell.slot];
}

// Whether a gc_fence_async stands between an ordinary write and its use by the asynchronous proxy.
bool is_fenced(const Actor &actor, const Cell &cell) {
  if (cell.slot < FIRST_THREAD_SLOT || cell.clock <= block.base) return true;
  const Fiber &writer = block.fibers[cell.slot - FIRST_THREAD_SLOT];
  const Clocks &own = actor.fiber->fenced;
  const bool by_writer = !writer.fenced.empty() && writer.fenced[cell.slot] >= cell.clock;
  return by_writer || (!own.empty() && own[cell.slot] >= cell.clock);
}

[[noreturn]] void fail_race(const Cell &other, bool other_writes, bool writes, uint32_t offset,
                            int line, const void *code) {
  const std::string name = shared_name(offset);
  const char *verb = writes ? "writes" : "reads";
  const unsigned thread = other.slot - FIRST_THREAD_SLOT;
  if (other.slot < MBARRIERS)
    fail(line, code, "race: %s %s before a tensor copy to it is complete; wait for its mbarrier",
         verb, name.c_str());
  if (other.slot < FIRST_THREAD_SLOT)
    fail(line, code, "race: %s %s while gc_wgmma_bf16 may still read it", verb, name.c_str());
  if (other.clock == UNDER_WAY)
    fail(line, code,
         "race: %s %s while an asynchronous copy of thread %u is writing it; "
         "gc_cp_async_wait_group is missing or lets one group too many be under way",
         verb, name.c_str(), thread);
  fail(line, code, "race: %s %s, which thread %u %s with no barrier in between", verb, name.c_str(),
       thread, other_writes ? "wrote" : "read");
}

void record_read(Granule &granule, const Cell &cell, const Actor &actor) {
  for (Cell &old : granule.reads)
    if (old.slot == cell.slot && old.bytes == cell.bytes && old.clock > block.base) {
      old.clock = cell.clock;
      return;
    }
  for (Cell &old : granule.reads)
    if (has_seen(actor, old)) {
      old = cell;
      return;
    }
  granule.reads[random_below(3)] = cell;
}

void touch_granule(uint32_t number, unsigned bytes, bool writes, const Actor &actor, int line,
                   const void *code) {
  Granule &granule = memory.granules[number];
  const Cell cell{actor.clock, (uint16_t)actor.slot, (uint16_t)bytes};
  const Cell &last = granule.write;
  if ((last.bytes & bytes) && !has_seen(actor, last))
    fail_race(last, true, writes, number * GRANULE, line, code);
  if (!writes) {
    if (last.clock <= block.base)
      fail(line, code, "reads %s, which nothing has written: is a barrier missing?",
           shared_name(number * GRANULE).c_str());
    if (actor.async && !is_fenced(actor, last))
      fail(line, code,
           "reads %s through the asynchronous proxy, but thread %u wrote it as usual: "
           "gc_fence_async is missing",
           shared_name(number * GRANULE).c_str(), last.slot - FIRST_THREAD_SLOT);
    return record_read(granule, cell, actor);
  }
  for (const Cell &read : granule.reads)
    if ((read.bytes & bytes) && !has_seen(actor, read))
      fail_race(read, false, writes, number * GRANULE, line, code);
  granule.write = cell;
}

void touch_shared(uint32_t offset, uint32_t bytes, bool writes, const Actor &actor, int line,
                  const void *code) {
  const uint32_t end = offset + bytes;
  for (uint32_t number = offset / GRANULE; number * GRANULE < end; number++) {
    const unsigned low = number * GRANULE >= offset, high = number * GRANULE + 1 < end;
    touch_granule(number, low | high << 1, writes, actor, line, code);
  }
}

// ---- Global memory -----------------------------------------------------------------------------

const Region *find_region(const uint8_t *address) {
  const Region *last = memory.last_region;
  if (last && address >= last->address && address < last->address + last->bytes) return last;
  const Region *first = block.launch->regions, *end = first + block.launch->region_count;
  const Region *after = std::upper_bound(
      first, end, address, [](const uint8_t *byte, const Region &x) { return byte < x.address; });
  if (after == first || address >= after[-1].address + after[-1].bytes) return nullptr;
  return memory.last_region = after - 1;
}

// What lies nearest to an address outside of everything that the kernel was given.
std::string describe_outside(const uint8_t *address) {
  const std::pair<const uint8_t *, size_t> shared[] = {{memory.dynamic, memory.dynamic_bytes},
                                                       {memory.arrays, memory.static_bytes}};
  const char *names[] = {"the dynamic shared memory", "the __shared__ arrays"};
  uint64_t best = 1 << 20;
  std::string text = "far from all that the kernel was given";
  const auto consider = [&](const uint8_t *start, size_t bytes, const std::string &name) {
    const bool before = address < start;
    const uint64_t distance = before ? start - address : address - (start + bytes);
    if (!bytes || distance >= best) return;
    best = distance;
    text = std::to_string(distance) + " bytes " + (before ? "before" : "past the end of ") +
           (before ? " " : "") + name + " of " + std::to_string(bytes) + " bytes";
  };
  for (int kind = 0; kind < 2; kind++)
    consider(shared[kind].first, shared[kind].second, names[kind]);
  for (uint32_t number = 0; number < block.launch->region_count; number++) {
    const Region &region = block.launch->regions[number];
    consider(region.address, region.bytes,
             "the memory of parameter " + std::to_string(region.parameter));
  }
  return text;
}

[[noreturn]] void fail_outside(const void *address, uint64_t bytes, bool writes, int line,
                               const void *code) {
  const std::string where = describe_outside(static_cast<const uint8_t *>(address));
  fail(line, code, "out of bounds: %s %llu bytes, %s", writes ? "writes" : "reads",
       (unsigned long long)bytes, where.c_str());
}

void touch_global(const uint8_t *address, uint64_t bytes, bool writes, int line, const void *code) {
  const Region *region = find_region(address);
  if (!region) fail_outside(address, bytes, writes, line, code);
  const uint64_t offset = address - region->address;
  if (offset + bytes > region->bytes)
    fail_outside(region->address + region->bytes, offset + bytes - region->bytes, writes, line,
                 code);
  uint8_t *written = region->written + offset;
  if (writes) {
    memset(written, 1, bytes);
    return;
  }
  if (const void *hole = memchr(written, 0, bytes))
    fail(line, code, "reads byte %llu of the memory of parameter %llu, which nothing has written",
         (unsigned long long)(static_cast<const uint8_t *>(hole) - region->written),
         (unsigned long long)region->parameter);
}

// ---- Any memory --------------------------------------------------------------------------------

void check_aligned(const void *address, unsigned bytes, int line, const void *code) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    fail(line, code, "misaligned: %u bytes at an address that is a multiple of only %u", bytes,
         1u << __builtin_ctzll(reinterpret_cast<uintptr_t>(address)));
}

// An ordinary access of the current thread. `aligned`: the size must divide the address.
void touch(const void *address, uint64_t bytes, bool writes, bool aligned, int line,
           const void *code) {
  Fiber *self = block.current;
  if (!self) return;
  const uint8_t *byte = static_cast<const uint8_t *>(address);
  if ((size_t)(byte - self->stack) < STACK_BYTES) return;
  if (++self->accesses > MANY_ACCESSES)
    fail(line, code, "runs on and on: %llu loads and stores without waiting once",
         (unsigned long long)MANY_ACCESSES);
  const Place place = find_shared(address);
  if (!place.found && !writes && byte >= memory.constants && byte < memory.constants_end) return;
  if (aligned && (place.found || find_region(byte)))
    check_aligned(address, (unsigned)bytes, line, code);
  if (!place.found) return touch_global(byte, bytes, writes, line, code);
  if (bytes > place.room) fail_outside(byte + place.room, bytes - place.room, writes, line, code);
  check_own(place, line, code);
  touch_shared(place.offset, (uint32_t)bytes, writes, self_actor(), line, code);
}

// The place of `bytes` of shared memory that a wrapper was given.
uint32_t expect_shared(const char *what, const void *address, uint32_t bytes, unsigned alignment,
                       int line) {
  const Place place = find_shared(address);
  if (!place.found || bytes > place.room)
    fail(line, nullptr, "out of bounds: %s, %u bytes of shared memory, starts %s", what, bytes,
         place.found ? (std::to_string(place.room) + " bytes before its end").c_str()
                     : describe_outside(static_cast<const uint8_t *>(address)).c_str());
  check_own(place, line, nullptr);
  if (place.offset % alignment)
    fail(line, nullptr, "misaligned: %s takes shared memory at a multiple of %u bytes, this is %s",
         what, alignment, shared_name(place.offset).c_str());
  return place.offset;
}

// ---- A launch and its blocks -------------------------------------------------------------------

// Finds the constants of this library: its segments that nobody can write.
int remember_constants(dl_phdr_info *info, size_t, void *code) {
  uint8_t *const base = reinterpret_cast<uint8_t *>(info->dlpi_addr);
  uint8_t *last = base;
  bool ours = false;
  for (int part = 0; part < info->dlpi_phnum; part++) {
    const auto &segment = info->dlpi_phdr[part];
    uint8_t *const start = base + segment.p_vaddr, *const end = start + segment.p_memsz;
    if (segment.p_type != PT_LOAD || segment.p_flags & PF_W) continue;
    ours |= code >= start && code < end;
    last = std::max(last, end);
  }
  if (ours) memory.constants = base, memory.constants_end = last;
  return ours;
}

void poison_shared() {
  memset(memory.dynamic, POISON, memory.stride * block.members.size());
  if (memory.static_bytes) memset(memory.arrays, POISON, memory.static_bytes);
}

bool open_memory() {
  memory.arrays = block.launch->arrays;
  memory.static_bytes = block.launch->array_bytes;
  memory.dynamic_bytes = block.launch->shared_bytes;
  memory.dynamic_offset = (uint32_t)(memory.static_bytes + DYNAMIC_ALIGNMENT - 1) /
                          DYNAMIC_ALIGNMENT * DYNAMIC_ALIGNMENT;
  const size_t bytes = memory.dynamic_offset + memory.dynamic_bytes;
  if (bytes > SHARED_LIMIT) {
    report_block(0,
                 "it asks for %zu bytes of shared memory (%zu in __shared__ arrays), "
                 "at most %u can be had",
                 bytes, memory.static_bytes, SHARED_LIMIT);
    return false;
  }
  memory.stride = (uint32_t)(memory.dynamic_bytes / DYNAMIC_ALIGNMENT + 1) * DYNAMIC_ALIGNMENT;
  const size_t together = memory.stride * block.members.size();
  memory.dynamic = static_cast<uint8_t *>(aligned_alloc(DYNAMIC_ALIGNMENT, together));
  memory.granules.assign((memory.dynamic_offset + together) / GRANULE + 1, Granule{});
  memory.last_region = nullptr;
  dl_iterate_phdr(remember_constants, reinterpret_cast<void *>(&poison_shared));
  return true;
}

void close_memory() {
  free(memory.dynamic);
  memory.dynamic = nullptr;
  std::vector<Granule>().swap(memory.granules);
}

}  // namespace
